"""The identity of every job of a study.

A job's identity contains the digests of the identities of its inputs, back to the dataset: a change anywhere changes
the identities of exactly the jobs that it reaches, whatever files are there and whatever their times.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from allround import datasets, learners, views
from allround.identity import ROOT, canonical, digest, identity
from allround.layout import Cell
from allround.study import Study

TEMPLATE = ROOT / "evaluation/report.html.j2"


@cache
def dataset(study: Study, name: str) -> str:
    """Identity of results/datasets/<name>.h5."""
    entry = study.datasets[name]
    modules = [datasets.module(entry["source"]), *([datasets.module("variants")] if "variant" in entry else [])]
    return identity("dataset", cell={"dataset": name}, settings=entry, inputs={}, modules=modules)


@cache
def labels(study: Study, cell: Cell) -> str:
    """Identity of a cell's labels.csv: the seed set in round 0, then what the oracle said to the last query."""
    inputs = {"dataset": dataset(study, cell.dataset)}
    if cell.round == 0:
        settings = {key: study.start[key] for key in ("size", "by")}
        return identity("seed_set", cell=cell.home.as_dict(), settings=settings, inputs=inputs)
    for number in range(1, cell.round):
        labels(study, replace(cell, round=number))  # oldest first: a study of many rounds must not recurse deeply
    inputs |= {"labels": labels(study, cell.previous.home), "query": query(study, cell.previous)}
    return identity("label", cell=cell.as_dict(), settings={}, inputs=inputs)


@cache
def train(study: Study, cell: Cell, member: int = 0) -> str:
    """Identity of a cell's checkpoint.pt and metrics.json, or of those of another member of its ensemble."""
    settings = learners.identity(study.learners[cell.learner])
    inputs = {"dataset": dataset(study, cell.dataset), "labels": labels(study, cell)}
    if warm(study, cell):
        inputs["previous"] = train(study, cell.previous.home, member)
    modules = learners.modules(settings)
    place = cell.as_dict() | ({"member": member} if member else {})
    return identity("train", cell=place, settings=settings, inputs=inputs, modules=modules)


def warm(study: Study, cell: Cell) -> bool:
    """Whether a cell's training goes on from the weights of the round before."""
    return cell.round > 0 and study.learners[cell.learner]["initialisation"] == "warm"


@cache
def embed(study: Study, cell: Cell, view: str) -> str:
    """Identity of a cell's pool/<view>.h5."""
    inputs = {"dataset": dataset(study, cell.dataset), "checkpoint": train(study, cell)}
    inputs |= {f"member{member}": train(study, cell, member) for member in views.members(view)}
    modules = [*learners.modules(study.learners[cell.learner]), views.module(view)]
    settings = {"view": view}
    return identity("embed", cell={**cell.as_dict(), "view": view}, settings=settings, inputs=inputs, modules=modules)


@cache
def query(study: Study, cell: Cell) -> str:
    """Identity of a cell's query.csv."""
    entry = study.strategies[study.arms[cell.arm]]
    settings = {"strategy": entry["strategy"], "hyperparameters": entry["hyperparameters"], "budget": study.budget}
    inputs = {"labels": labels(study, cell.home)}
    inputs |= {view: embed(study, cell.home, view) for view in views_of(entry)}
    modules = [f"allround.strategies.{entry['strategy']}"]
    if sees_model(entry):
        inputs["checkpoint"] = train(study, cell.home)
        modules += [*learners.modules(study.learners[cell.learner]), "allround.learners.model"]
    return identity("query", cell=cell.as_dict(), settings=settings, inputs=inputs, modules=modules)


def views_of(entry: dict) -> list[str]:
    """The views that a strategy's entry needs."""
    return [need for need in entry["needs"] if views.base(need) in views.names()]


def sees_model(entry: dict) -> bool:
    """Whether a strategy's entry needs the round's model, or images as that model sees them."""
    return bool({"model", "images"} & set(entry["needs"]))


@cache
def collect(study: Study) -> str:
    """Identity of a study's tables."""
    cells = canonical([train(study, cell) for cell in study.cells()])
    return identity("collect", cell={}, settings={"study": study.as_dict()}, inputs={"cells": cells})


@cache
def report(study: Study) -> str:
    """Identity of a study's figures and report."""
    settings = {"study": study.as_dict(), "template": digest(TEMPLATE.read_text(encoding="utf-8"))}
    return identity("report", cell={}, settings=settings, inputs={"tables": collect(study)})
