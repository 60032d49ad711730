"""What of a study is finished, seen from outside Snakemake: by the files that are there and Snakemake's records."""

from __future__ import annotations

import ast
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
    done = {cell for cell in there if made_under(files[cell]) == plan.train(found, cell)}
    return done, len(there) - len(done)


def made_under(path: Path) -> str | None:
    """The identity that a file was made under, or was accepted under by --touch, by Snakemake's record of it; without a
    record, by what the file says itself; None where it is missing or neither is known."""
    if not path.exists():
        return None
    try:
        name = urlsafe_b64encode(str(path).encode()).decode()
        longest = os.pathconf(RECORDS, "PC_NAME_MAX") - 1
        parts = [name[start : start + longest] for start in range(0, len(name), longest)]
        record = RECORDS.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])
        (identity,) = json.loads(record.read_text(encoding="utf-8"))["params"]
        return ast.literal_eval(identity)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):
        return identity_of(path)
