"""How much disk a study will still take, compared with what is free before the first job starts.

Only what is missing counts. Kept files count all; files that Snakemake deletes after use count by how many can be there
at one time. The scheduler starts jobs that use up such a file before any that would make another (reward of temp input
in scheduling/greedy.py and milp.py), so a training starts only if every cell with such a file has a job running:
at most as many cells have one as jobs run. Two kinds wait for a training instead, and are counted for every arm and
seed: checkpoints of an ensemble (for its last member) and of a warm start (for the next round).

Everything is counted in blocks of the file system, since a study has many files that are smaller than one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path

from allround import artifacts, layout, plan, views
from allround.datasets import shapes
from allround.datasets.shapes import Shapes
from allround.errors import AllroundError
from allround.learners.sizes import Size, size
from allround.remaining import Jobs, Made, remaining
from allround.study import Study

BLOCK = 4096
TIGHT = 0.9  # of the free space: beyond it a warning
MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors as large as the weights in the state of a training
PAGE, CURVE, PAIR = 4_900_000, 28_000, 3_000  # bytes of the report: its script; figures, a strategy and a pair of them
# blocks of small files, each with Snakemake's record of it
TRAIN, EMBED, QUERY, LABEL, FOLDERS = 6, 4, 5, 5, 4


@dataclass(frozen=True)
class Need:
    """Bytes that a study will still write: what stays, by kind, and what is deleted after use.

    temporary: at most at one time; step: what one round needs at the least
    replaced: what is there and is deleted before it is made again
    arms: how many go on, of every seed
    again: finished trainings whose checkpoints are gone and needed; unknown: datasets of unknown size
    """

    dataset: int = 0
    checkpoints: int = 0
    embeddings: int = 0
    small: int = 0
    temporary: int = 0
    step: int = 0
    replaced: int = 0
    arms: int = 0
    again: int = 0
    unknown: tuple[str, ...] = ()

    @property
    def stays(self) -> int:
        """All that is there in the end."""
        return self.dataset + self.checkpoints + self.embeddings + self.small

    def __add__(self, other: Need) -> Need:
        return Need(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Need)))


def need(study: Study, *, data: Path, keep: Collection[str], jobs: int, made: Made) -> Need:
    """What a study will still write.

    data: the folder of the datasets' sources; keep: `keep` of config/config.yaml
    jobs: how many jobs run at one time
    made: (path, identity) -> whether that file is there and was made under that identity
    AllroundError: a learner's network does not fit a dataset's images
    """
    parts = []
    for name in study.datasets:
        pool = shapes.of(study, name, data)
        if pool is None:
            parts.append(Need(unknown=(name,)))
            continue
        there = layout.dataset_path("results", name).exists()
        parts.append(Need(dataset=0 if there else _blocks(pool.bytes)))
        parts += [_learner(study, name, learner, pool, keep, made) for learner in study.learners]
    whole = sum(parts, Need(small=_report(study)))
    step = max(part.step for part in parts)
    return replace(whole, temporary=whole.temporary + min(jobs, whole.arms) * step, step=step)


def check(need: Need, name: str, results: Path) -> tuple[str, bool]:
    """One line on a study's need against the free space of the disk that holds `results`, and whether it is tight.

    AllroundError: it cannot fit, or `results` cannot be written to
    """
    results = results.resolve()
    place = next(folder for folder in (results, *results.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        raise AllroundError(
            f"{place}: cannot be written to; check its owner and mode, or the mount. Nothing was started."
        )
    free = shutil.disk_usage(place).free
    kinds = {"dataset": need.dataset, "checkpoints": need.checkpoints, "embeddings": need.embeddings}
    parts = ", ".join(f"{kind} {amount(size)}" for kind, size in {**kinds, "small files": need.small}.items() if size)
    stays = f"{amount(need.stays)} that stay ({parts})"
    if need.stays + need.step > free + need.replaced:
        raise AllroundError(
            f"disk: study '{name}' will write {stays} and at least {amount(need.step)} at a time that are deleted "
            f"after use, but only {amount(free)} are free in {results}; free some space, keep less (`keep` in "
            "config/config.yaml), or let results/ link to a larger disk."
        )
    line = f"disk: study '{name}' will write {stays} and up to {amount(need.temporary)} at a time that are deleted "
    line += f"after use; {amount(free)} are free."
    if need.unknown:
        line += f" Not counted: {', '.join(need.unknown)}, whose size is known once converted."
    if need.again:
        line += f" Finished trainings that run again, because their checkpoints were not kept: {need.again}."
    tight = need.stays + need.temporary > TIGHT * (free + need.replaced)
    return f"{line} This will be tight: free some space." if tight else line, tight


def amount(size: int) -> str:
    """Bytes as a person reads them: 38 kB, 1.2 GB."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1000:.0f} kB"


def _learner(study: Study, dataset: str, learner: str, pool: Shapes, keep: Collection[str], made: Made) -> Need:
    """What the trainings under one learner on one dataset, and all that goes with them, will write."""
    jobs = remaining(study, dataset, learner, made)
    if not jobs.trained:
        return Need()
    settings = study.learners[learner]
    network = size(settings, pool.train[1:], len(pool.classes))
    checkpoint = _blocks(network.weights + 304 * network.tensors + 3072)  # torch's archive, settings, the identity
    state = _blocks((1 + MOMENTS[settings["optimiser"]["name"]]) * network.weights)
    view = {name: _blocks(view_bytes(name, pool, network)) for name in jobs.kinds}
    arms = len({(cell.arm, cell.seed) for cell in jobs.trained})
    need = Need(small=_small(study, jobs), step=state, replaced=jobs.replaced, arms=arms, again=jobs.again)
    if "checkpoints" in keep:
        need += Need(checkpoints=checkpoint * (len(jobs.checkpoints) + len(jobs.members)))
    else:
        need += Need(temporary=checkpoint * _waiting(study, jobs), step=checkpoint)
    if "embeddings" in keep:
        return need + Need(embeddings=sum(view[name] for _, name in jobs.embedded))
    return need + Need(step=sum(view.values()))


def _waiting(study: Study, jobs: Jobs) -> int:
    """How many checkpoints may wait for another training: those of an ensemble's members, of a warm start's arms."""
    arms = {(cell.arm, cell.seed) for cell in jobs.checkpoints}
    largest = max((number for _, number in jobs.members), default=0)
    warm = any(plan.warm(study, cell) for cell in jobs.trained)
    return len(arms) * (largest + (1 + largest if warm else 0))


def view_bytes(view: str, pool: Shapes, network: Size) -> int:
    """Size of pool/<view>.h5: features in float16 and logits in float32, in whole chunks, or logits of every draw."""
    if views.base(view) == "outputs":
        row_bytes = (2 * network.width, 4 * len(pool.classes))
    else:
        row_bytes = (4 * views.samples(view) * len(pool.classes),)
    return 2048 + artifacts.view_bytes(pool.train[0], row_bytes)  # 2048: what the file says of itself


def _report(study: Study) -> int:
    """The page, and its figures for every dataset and learner."""
    strategies = len(study.strategies)
    figures = len(study.datasets) * len(study.learners) * (CURVE * strategies + PAIR * strategies**2)
    return _blocks(PAGE + figures)


def _small(study: Study, jobs: Jobs) -> int:
    """Labelled sets, queries, metrics, costs, logs and Snakemake's records."""
    labels = sum(_blocks(900 + 13 * (study.start["size"] + cell.round * study.budget)) for cell in jobs.trained)
    queries = len(jobs.queried) * _blocks(900 + 27 * study.budget)
    counts = (
        (TRAIN + LABEL - 1 + FOLDERS) * len(jobs.trained)
        + TRAIN * len(jobs.members)
        + EMBED * len(jobs.embedded)
        + (QUERY - 1) * len(jobs.queried)
        + FOLDERS * sum(cell.round == 0 for cell in jobs.queried)  # later rounds lie in the folders of their training
    )
    return labels + queries + counts * BLOCK


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
