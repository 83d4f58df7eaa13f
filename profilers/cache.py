"""What runtimes learn about a device and want back in their next process."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from tfnas.files.atomic import replacing
from tfnas.files.bounded import read_bytes
from tfnas.files.places import user_folder
from tfnas.latency.table import Device

log = logging.getLogger(__name__)

CACHE_MARK = b"tfnas.cache/1 "
MAX_CACHE_BYTES = 1 << 30


class CacheFile:
    """Bytes that a runtime wants back in its next process. Losing them costs time only, so what is
    damaged is left out with a warning, and what can't be written is not."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def of(cls, device: Device) -> CacheFile:
        """That of a device and context, in the user's cache folder."""
        return cls(user_folder("cache") / f"{device.backend}-{device.fingerprint}.cache")

    def load(self) -> bytes:
        try:
            text = read_bytes(self.path, MAX_CACHE_BYTES + 100)
        except FileNotFoundError:
            return b""
        except (OSError, ValueError) as error:
            log.warning("warning: %s: %s; it is left out", self.path, error)
            return b""
        head, _, content = text.partition(b"\n")
        if head != CACHE_MARK + hashlib.sha256(content).hexdigest().encode():
            log.warning("warning: %s is damaged; it is left out", self.path)
            return b""
        return content

    def save(self, content: bytes) -> None:
        head = CACHE_MARK + hashlib.sha256(content).hexdigest().encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as new:
                new.write_bytes(head + b"\n" + content)
        except OSError as error:
            log.debug("can't write %s: %s", self.path, error)
