"""Tables of this very device: where they lie, and whose they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from tfnas.app.values import shipped_tables_path, user_tables_path
from tfnas.latency.table import Device, LatencyTable

log = logging.getLogger(__name__)

ELSEWHERE = "table=FILE, or XDG_DATA_HOME=FOLDER in the environment, is another place"


def table_path(device: Device) -> Path:
    """The file of this device's own table; its name carries device, context and fingerprint."""
    return user_tables_path() / table_name(device)


def table_name(device: Device) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    return (
        f"{device.kind}-{name}-t{device.threads}-b{device.batch}-{device.precision}-"
        f"{device.fingerprint}.json"
    )


def find_table(device: Device) -> Path | None:
    """This device's own table: the user's, else a shipped one, else None.

    Raises:
        ValueError: if the file is unusable, or its name claims another fingerprint than its text.
    """
    folders = dict.fromkeys((user_tables_path(), shipped_tables_path()))
    for folder in folders:
        path = folder / table_name(device)
        if path.exists():
            check_own(LatencyTable.load(path).device, device, path)
            return path
    for path in (p for f in folders for p in f.glob(f"*-{hardware_of(device)}-*.json")):
        log.info("%s is this machine's in another context (runtime, threads): not used", path)
    return None


def same_machine(a: Device, b: Device) -> bool:
    """Whether both are one machine, whatever the runtime, threads, batch or precision."""
    return a.kind == b.kind and hardware_of(a) == hardware_of(b)


def hardware_of(device: Device) -> str:
    """The part of a fingerprint (`hardware-context`) that identifies the hardware."""
    return device.fingerprint.partition("-")[0]


def check_own(table: Device, device: Device, path: Path) -> None:
    """Refuse a table that is used as this device's own and isn't.

    Raises:
        ValueError: names what differs and the command that mends it.
    """
    if table.fingerprint == device.fingerprint:
        return
    pairs = [
        (name, getattr(table, name), getattr(device, name))
        for name in ("name", "backend", "precision", "activations", "batch", "threads", "versions")
    ]
    if hardware_of(table) != hardware_of(device):
        pairs.append(("hardware", hardware_of(table), hardware_of(device)))
    changed = "; ".join(f"{n}: {_plain(a)} there, {_plain(b)} here" for n, a, b in pairs if a != b)
    raise ValueError(
        f"table {path} carries the fingerprint {table.fingerprint} of another context, this "
        f"device has {device.fingerprint} ({changed or 'the context itself is the same'}); move "
        f"it away and measure anew with `python -m profilers device={device.kind} "
        f"threads={device.threads} batch={device.batch}` and the same options"
    )


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {what}" for name, what in value.items())
    return str(value)
