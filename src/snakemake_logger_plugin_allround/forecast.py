"""When a run will end: how long each kind of job takes, and the rest of the plan played through with that.

Trainings get longer as labels are bought, strategies differ by orders of magnitude, and at the end of a study some
cores have nothing left to do. So the time that is left is neither a share of jobs nor work over cores: the jobs that
remain are scheduled, in their order, on as many places as the run has.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from snakemake_logger_plugin_allround.plan import MEMBER, TRAIN, Job

# Seconds of jobs that are short whatever the study is; used until one of their kind has ended.
SHORT = {"all": 0.0, "seed_set": 1.0, "label": 1.0, "collect": 4.0, "report": 8.0}
FORGET = 0.97  # weight of a duration when the next of its kind arrives
LATELY = 0.93  # the same for the pace of all jobs, against what was expected of them: a machine's load changes
CALM = 3.0  # jobs' worth of belief that the pace is what it was
SETTLED = 5.0  # durations from which on a kind's mean moves slowly, so that the pace is told apart from it
REACH = 2.0  # how far beyond the labels seen so far a training's time is extrapolated before its growth is known
GROWTH = 0.3  # growth with labels, 0 (none) to 1 (proportional), that is believed before there is evidence
DOUBT = 0.3  # weight of that belief, in the units of the squared relative spread of labels
SLOWEST = 1.5  # growth that is believed at most


@dataclass
class Trend:
    """Durations of one kind of job over the number of labels: weighted sums, and the labels seen."""

    weight: float = 0.0
    n: float = 0.0
    nn: float = 0.0
    d: float = 0.0
    nd: float = 0.0
    seen: set[int] = field(default_factory=set)

    def add(self, labels: int, seconds: float) -> None:
        """Count one more duration; O(1)."""
        for key in ("weight", "n", "nn", "d", "nd"):
            setattr(self, key, getattr(self, key) * FORGET)
        self.weight += 1
        self.n += labels
        self.nn += labels * labels
        self.d += seconds
        self.nd += labels * seconds
        self.seen.add(labels)

    def at(self, labels: int) -> float:
        """Expected seconds with so many labels: a line through the mean, its slope drawn towards GROWTH."""
        n, d = self.n / self.weight, self.d / self.weight
        if n <= 0 or d <= 0:
            return d
        spread = max(self.nn / self.weight / n**2 - 1, 0)  # of n / mean(n)
        common = self.nd / self.weight / (n * d) - 1
        slope = min(max((common + GROWTH * DOUBT / self.weight) / (spread + DOUBT / self.weight), 0), SLOWEST)
        return d * max(1 + slope * (labels / n - 1), 0.1)

    def reaches(self, labels: int) -> bool:
        """Whether so many labels are near enough to those seen, or the growth is known from enough of them."""
        known = len(self.seen) >= 3 and max(self.seen) >= REACH * min(self.seen)
        return known or labels <= REACH * max(self.seen)


class Durations:
    """Seconds of jobs by kind, from this run and, before and beside that, from the costs of finished cells."""

    def __init__(self, prior: Iterable[tuple[tuple[str, ...], int, float]] = ()) -> None:
        self._trends: dict[tuple[str, ...], Trend] = {}
        self._prior: dict[tuple[str, ...], Trend] = {}
        self._scale: dict[tuple[str, ...], list[float]] = {}  # [seconds seen, seconds that the prior expected]
        self._pace = [CALM, CALM]  # lately, each job relative to what was expected of it: [seen, expected]
        for kind, labels, seconds in prior:
            self._prior.setdefault(kind, Trend()).add(labels, seconds)

    def add(self, kind: tuple[str, ...], labels: int, seconds: float) -> None:
        """Count the duration of a job that has ended; O(1)."""
        if kind in self._prior:
            expected = self._prior[kind].at(labels)
            seen = self._scale.setdefault(kind, [expected, expected])  # one observation's worth of belief
            seen[:] = [LATELY * seen[0] + seconds, LATELY * seen[1] + expected]
        elif (trend := self._trends.get(kind)) and trend.weight >= SETTLED and trend.d > 0:
            seen, usual = self._pace
            self._pace = [LATELY * seen + min(seconds / trend.at(labels), 5.0), LATELY * usual + 1]
        for part in (kind, kind[:3], kind[:1]):
            self._trends.setdefault(part, Trend()).add(labels, seconds)

    def expect(self, kind: tuple[str, ...], labels: int) -> float | None:
        """Expected seconds of a job; None where nothing says."""
        if kind in self._prior and self._prior[kind].reaches(labels):
            seen, expected = self._scale.get(kind, (1.0, 1.0))
            return self._prior[kind].at(labels) * seen / max(expected, 1e-9)
        for part in (kind, kind[:3], kind[:1]):
            if trend := self._trends.get(part):
                if kind[0] in (TRAIN, MEMBER) and not trend.reaches(labels):
                    return None
                return trend.at(labels) * (self._pace[0] / self._pace[1] if trend.weight >= SETTLED else 1)
        if kind[0] == MEMBER:
            return self.expect((TRAIN, *kind[1:]), labels)
        return SHORT.get(kind[0])


@dataclass(frozen=True)
class Graph:
    """The jobs of a plan by position: what each needs and who waits for it."""

    ids: tuple[int, ...]
    positions: dict[int, int]
    needs: tuple[int, ...]
    followers: tuple[tuple[int, ...], ...]


def graph(jobs: Mapping[int, Job]) -> Graph:
    """Read the order of jobs once: it does not change during a run."""
    positions = {number: position for position, number in enumerate(jobs)}
    followers: list[list[int]] = [[] for _ in jobs]
    for number, job in jobs.items():
        for other in job.needs:
            followers[positions[other]].append(positions[number])
    needs = tuple(len(job.needs) for job in jobs.values())
    return Graph(tuple(jobs), positions, needs, tuple(map(tuple, followers)))


def seconds_left(
    order: Graph, jobs: Mapping[int, Job], durations: Durations, *,
    done: set[int], failed: Iterable[int], running: Mapping[int, float], places: int,
) -> float | None:  # fmt: skip
    """Seconds until nothing is left that can run; None while some kind of job has told nothing yet.

    done, failed: ids of jobs; running: id -> seconds since its start; places: jobs that run side by side
    What needs a failed job never becomes ready, and so counts for nothing.
    """
    waits = list(order.needs)
    for number in done:
        for follower in order.followers[order.positions[number]]:
            waits[follower] -= 1
    known: dict[tuple, float | None] = {}
    busy: list[tuple[float, int]] = []
    out = {*done, *failed, *running}
    ready = deque(position for position, number in enumerate(order.ids) if not waits[position] and number not in out)
    for number, age in running.items():
        if (expected := _expected(jobs[number], durations, known)) is None:
            return None
        heapq.heappush(busy, (max(expected - age, 0.2 * age), order.positions[number]))
    now = 0.0
    while ready or busy:
        while ready and len(busy) < places:
            position = ready.popleft()
            if (expected := _expected(jobs[order.ids[position]], durations, known)) is None:
                return None
            heapq.heappush(busy, (now + expected, position))
        now, position = heapq.heappop(busy)
        for follower in order.followers[position]:
            waits[follower] -= 1
            if not waits[follower]:
                ready.append(follower)
    return now


def _expected(job: Job, durations: Durations, known: dict[tuple, float | None]) -> float | None:
    key = (job.kind, job.labels)
    if key not in known:
        known[key] = durations.expect(*key)
    return known[key]
