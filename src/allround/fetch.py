"""Fetch what a study takes from the internet: for a cluster whose nodes have none, before its first job.

    python -m allround.fetch            for the study that config/config.yaml names
    python -m allround.fetch <study>    for another one, by name or by path

Standard datasets go into the data folder, pretrained weights into the caches of torchvision and timm (TORCH_HOME and
HF_HOME say where), which all nodes have to see. What is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from allround import datasets
from allround.datasets import shapes
from allround.errors import AllroundError
from allround.identity import canonical
from allround.learners import PRETRAINED
from allround.study import load, site


def main() -> None:
    """Fetch, saying what; exit with one line where that fails."""
    parser = argparse.ArgumentParser("python -m allround.fetch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", help="name under config/studies/ or path; default: see config/config.yaml")
    try:
        fetch(parser.parse_args().study)
    except (AllroundError, OSError) as error:
        sys.exit(f"allround fetch: {error}")


def fetch(asked: str | None) -> None:
    """Have the standard datasets of a study and all pretrained weights here. AllroundError: something cannot be had."""
    config = site(asked)
    study, data = load(config, Path()), Path(config["data"])
    standard = {canonical(entry["options"]): entry["options"] for entry in study.datasets.values() if _standard(entry)}
    for options in standard.values():
        datasets.load("torchvision", data, options)
        print(f"{options['name']} is here", flush=True)
    wanted = {name: entry for name, entry in study.learners.items() if _pretrained(entry)}
    if not wanted:
        return
    pool = next(filter(None, (shapes.of(study, name, data) for name in study.datasets)), None)
    if pool is None:
        raise AllroundError(f"study '{study.name}': none of its datasets can be read, so no network can be built.")
    from allround.learners.model import build  # slow: it imports torch

    for name, entry in wanted.items():
        build(entry, pool.train[1:], len(pool.classes))
        print(f"the weights of learner '{name}' are here", flush=True)


def _standard(entry: Mapping) -> bool:
    return entry["source"] == "torchvision"


def _pretrained(entry: Mapping) -> bool:
    return any(entry["arguments"].get(key) for key in PRETRAINED)


if __name__ == "__main__":
    main()
