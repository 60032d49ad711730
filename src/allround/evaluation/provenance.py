"""What made a study's results: code, versions, hosts, devices and datasets, gathered file by file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.artifacts import same_dataset


class Seen:
    """What made the results: code, versions, hosts, devices, datasets. Grows with every file that is read."""

    def __init__(self) -> None:
        self.codes: dict[str, set[str]] = {}
        self.queries: dict[str, set[str]] = {}
        self.alike: dict[str, set[str]] = {}  # code of jobs that should all have run the same
        self.versions: dict[str, set[str]] = {}
        self.hosts: set[str] = set()
        self.devices: set[str] = set()
        self.started: set[str] = set()
        self.datasets: dict[str, tuple[Path, str]] = {}
        self.jobs: set[Path] = set()

    def result(self, path: Path, dataset: str, metrics: Mapping) -> None:
        """A metrics.json; refuses results on two versions of one dataset."""
        first, digest = self.datasets.setdefault(dataset, (path, metrics["dataset_digest"]))
        same_dataset(path, metrics["dataset_digest"], first, digest)
        self.code("train", metrics["identity"]["code"], metrics["identity"]["cell"].get("learner"))

    def code(self, job: str, fingerprint: str, learner: str | None, strategy: str | None = None) -> None:
        """The code fingerprint of a job ('train', 'embed outputs'), which depends on its learner; for queries, its
        strategy's."""
        found, key = (self.codes, job) if strategy is None else (self.queries, strategy)
        found.setdefault(key, set()).add(fingerprint)
        words = f"{job} of strategy {strategy}" if strategy else job
        self.alike.setdefault(f"{words} ({learner})" if learner else words, set()).add(fingerprint)

    def job(self, path: Path, cost: Mapping, learner: str) -> None:
        """A cost file of a learner's cell; each counts once, however many curves share it."""
        if path in self.jobs:
            return
        self.jobs.add(path)
        self.hosts.update(filter(None, [cost.get("host")]))
        self.devices.update(filter(None, [cost.get("device_name") or cost.get("device")]))
        self.started.update(filter(None, [cost.get("started")]))
        for name, version in cost.get("versions", {}).items():
            self.versions.setdefault(name, set()).add(str(version))
        if "code" in cost and cost.get("stage") != "query":
            name = path.stem.replace("_", " ", 1) if cost["stage"] == "embed" else cost["stage"]
            self.code(name, cost["code"], learner if cost["stage"] in ("train", "embed") else None)

    def as_dict(self) -> dict:
        """Sorted, for JSON."""
        return {
            "code": {name: sorted(codes) for name, codes in sorted(self.codes.items())}
            | {"query": {name: sorted(codes) for name, codes in sorted(self.queries.items())}},
            "mixed": sorted(name for name, codes in self.alike.items() if len(codes) > 1),
            "versions": {name: sorted(versions) for name, versions in sorted(self.versions.items())},
            "hosts": sorted(self.hosts),
            "devices": sorted(self.devices),
            "digests": {name: digest for name, (_, digest) in sorted(self.datasets.items())},
            "jobs": len(self.jobs),
            "first": min(self.started, default=None),
            "last": max(self.started, default=None),
        }
