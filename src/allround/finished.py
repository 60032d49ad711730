"""What of a study is finished, seen from outside Snakemake: by the files that are there and Snakemake's records."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64encode
from pathlib import Path

from allround import layout, plan
from allround.artifacts import identity_of
from allround.layout import Cell
from allround.study import Study

RECORDS = Path(".snakemake/metadata")


def cells(found: Study) -> tuple[set[Cell], int]:
    """The cells whose metrics are there under today's identity; how many more are there under another one."""
    files = {cell: layout.path("results", cell, "metrics.json") for cell in found.cells()}
    there = [cell for cell in files if files[cell].exists()]
    done = {cell for cell in there if _up_to_date(files[cell], plan.train(found, cell))}
    return done, len(there) - len(done)


def _up_to_date(path: Path, identity: str) -> bool:
    return identity_of(path) == identity or _accepted(path) == [repr(identity)]


def _accepted(path: Path) -> list[str] | None:
    """The params in Snakemake's record of a file: what --touch has accepted."""
    try:
        name = urlsafe_b64encode(str(path).encode()).decode()
        longest = os.pathconf(RECORDS, "PC_NAME_MAX") - 1
        parts = [name[start : start + longest] for start in range(0, len(name), longest)]
        record = RECORDS.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])
        return json.loads(record.read_text(encoding="utf-8"))["params"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
