"""The folders of a user's own files: tables, caches, what is known of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from platformdirs import user_cache_path, user_data_path, user_state_path

KINDS: Mapping[str, Callable[[str], Path]] = {
    "cache": user_cache_path, "data": user_data_path, "state": user_state_path,
}  # fmt: skip
NOWHERE = Path("/nonexistent/tfnas")  # Debian's home of users who have none


def user_folder(kind: str) -> Path:
    """Where the user's cache, data or state lies, by the XDG variables and his home.

    A container's user may have neither. His folder is then one that nobody can make, so that caches
    go without, and tables ask for another place.
    """
    try:
        folder = KINDS[kind]("tfnas")
    except RuntimeError:  # platformdirs knows no home
        return NOWHERE
    return folder if folder.is_absolute() else NOWHERE  # its older versions leave "~" as it is
