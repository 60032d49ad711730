"""The state file: what a run is doing, for those who look from outside (`python -m allround.status`)."""

from __future__ import annotations

import json
from pathlib import Path

NAME = "allround-progress.json"  # under .snakemake/


def write(folder: Path, progress: dict) -> None:
    """Write the state whole or not at all; a full disk or a folder that may not be written costs nothing else."""
    path = folder / NAME
    try:
        path.with_suffix(".tmp").write_text(json.dumps(progress), encoding="utf-8")
        path.with_suffix(".tmp").replace(path)
    except OSError:
        path.with_suffix(".tmp").unlink(missing_ok=True)


def read(folder: Path) -> dict | None:
    """The last run's state; None where there was none, or what is there is no such file."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return found if {"study", "pid", "host", "ended", "failed", "running"} <= set(found) else None
    except (OSError, ValueError, TypeError):
        return None
