"""State files: what the runs of a folder are doing, for those who look from outside (`python -m allround.status`)."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

PREFIX = "allround-progress-"
KEYS = {"study", "pid", "host", "began", "updated", "ended", "failed", "running"}


def file_of(folder: Path, study: str) -> Path:
    """The state file of a study's last run. folder: .snakemake"""
    return folder / f"{PREFIX}{quote(study, safe='')}.json"


def write(folder: Path, progress: dict) -> None:
    """Write the state whole or not at all; a full disk or a folder that may not be written costs nothing else."""
    path = file_of(folder, progress["study"])
    try:
        path.with_suffix(".tmp").write_text(json.dumps(progress), encoding="utf-8")
        path.with_suffix(".tmp").replace(path)
    except OSError:
        path.with_suffix(".tmp").unlink(missing_ok=True)


def read(folder: Path) -> list[dict]:
    """The state of every study's last run, the latest first; what is no such file is left out."""
    found = []
    for path in folder.glob(f"{PREFIX}*.json"):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if set(state) >= KEYS:
                found.append(state)
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda state: state["updated"], reverse=True)
