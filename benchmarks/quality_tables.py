"""placeholder"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Results(dict[str, dict[str, Any]]):
    """Records of finished jobs by their names."""

    @classmethod
    def load(cls, file: Path) -> Results:
        lines = file.read_text().splitlines() if file.is_file() else []
        records = [json.loads(line) for line in lines]
        return cls({record["job"]: record for record in records})


def tables(results: Results, jobs: Mapping[str, list[Any]]) -> str:
    return f"{len(results)} results"
