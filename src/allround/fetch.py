"""Fetch what a study takes from the internet: for a cluster whose nodes have none, before its first job.

    python -m allround.fetch            for the study that config/config.yaml names
    python -m allround.fetch <study>    for another one, by name or by path

Standard datasets go into the data folder, pretrained weights into the caches of torchvision and timm (TORCH_HOME and
HF_HOME say where), which all nodes have to see. What is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from allround import datasets, layout
from allround.datasets import shapes
from allround.errors import AllroundError
from allround.learners import PRETRAINED
from allround.study import load, site


def main() -> None:
    """Fetch, saying what; exit with one line where that fails."""
    parser = argparse.ArgumentParser("python -m allround.fetch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", help="name under config/studies/ or path; default: see config/config.yaml")
    try:
        fetch(parser.parse_args().study)
    except AllroundError as error:
        sys.exit(f"allround fetch: {error}")


def fetch(asked: str | None) -> None:
    """Have every source of a study and all pretrained weights here. AllroundError: something cannot be fetched."""
    config = site(asked)
    study, data = load(config, Path()), Path(config["data"])
    for name, entry in study.datasets.items():
        if not layout.dataset_path("results", name).exists():
            datasets.load(entry["source"], data, entry["options"], where=f"dataset '{name}'")
        print(f"dataset '{name}' is here", flush=True)
    pool = shapes.of(study, next(iter(study.datasets)), data)
    for name, settings in study.learners.items():
        if pool and any(settings["arguments"].get(key) for key in PRETRAINED):
            from allround.learners.model import build  # slow: it imports torch

            build(settings, pool.train[1:], len(pool.classes))
            print(f"the weights of learner '{name}' are here", flush=True)


if __name__ == "__main__":
    main()
