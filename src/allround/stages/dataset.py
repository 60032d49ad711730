"""dataset: images and labels of one dataset, read from their source, checked, and written block by block.

--memory-gb (memory_gb in config/config.yaml) bounds the size of the images as uint8: learners keep them on the device.

settings: {"source": a file of allround/datasets, "options": its options, and "variant" where it is one}
cell: {"dataset": name}
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from allround.artifacts import write_dataset
from allround.datasets import Source, load, raw_bytes
from allround.errors import AllroundError
from allround.job import run_stage


def make_dataset(*, data: Path, dataset: Path, memory_gb: float | None, identity: str, **_: object) -> dict:
    """Write dataset.h5 from what lies in the folder `data`. memory_gb: the most that the images may take."""
    job = json.loads(identity)
    settings = job["settings"]
    source = load(settings["source"], data, settings["options"], where=f"dataset '{job['cell']['dataset']}'")
    if "variant" in settings:  # by name: its code counts in the identity of variants alone (plan.dataset)
        source = import_module("allround.datasets.variants").apply(source, settings["variant"])
    if memory_gb is not None:
        check_budget(source, memory_gb)
    write_dataset(dataset, identity=identity, classes=source.classes, train=source.train, test=source.test)
    return {"images": len(source.train.labels) + len(source.test.labels)}


def check_budget(source: Source, memory_gb: float) -> None:
    """Refuse images that take more than the budget, before any of them is written."""
    count, size = len(source.train.labels) + len(source.test.labels), raw_bytes(source) / 1e9
    if size > memory_gb:
        shape = " x ".join(map(str, source.train.images.shape[1:]))
        raise AllroundError(
            f"{source.where}: {count} images of {shape} take {size:.3g} GB, more than the budget of {memory_gb:g} GB; "
            "raise memory_gb in config/config.yaml, or make the images smaller (source 'folder': option 'size')."
        )


if __name__ == "__main__":
    run_stage(make_dataset, inputs=("data",), outputs=("dataset",), numbers=("memory_gb",))
