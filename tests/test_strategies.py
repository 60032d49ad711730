"""Every file in strategies/: one contract for all.

A new file is under it as soon as it is there. What it needs beside is a reference of its own, in tests/references/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pool import identity, write_view

from allround import device
from allround.artifacts import Labels, write_labels
from allround.learners.model import Classifier
from allround.pool import Pool
from allround.strategies import describe, names, options, run, select, settings


def parameters(name: str) -> dict:
    """A strategy's hyperparameters and what the door adds to them."""
    return describe(name).parameters | options(describe(name).needs)


# Every strategy with its defaults, and with every allowed value of each hyperparameter that names its values.
VARIANTS = [(name, {}) for name in names()] + [
    (name, {key: value})
    for name in names()
    for key, parameter in parameters(name).items()
    for value in parameter.choices
    if value != parameter.default
]
EVERY = pytest.mark.parametrize(
    ("name", "hyperparameters"), VARIANTS, ids=["-".join([n, *map(str, h.values())]) for n, h in VARIANTS]
)


def arrays(n: int = 60, d: int = 8, c: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """What the contract gives to every strategy: features, logits of a linear layer over them, and 10 labels; the layer
    as a model, whose features are the pixels; half of the labelled examples as a query set, half as a private set."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n, d)), 0).astype(np.float32)
    zero = ~features.any(1)  # several of these no method could tell apart
    features[zero] = np.random.default_rng(seed + 1).random((zero.sum(), d))
    layer = linear(rng.standard_normal((d, c)), rng.standard_normal(c))
    logits = (features @ layer.head.weight.numpy().T + layer.head.bias.numpy()).astype(np.float32)
    labelled = rng.permutation(n)[: max(2, n // 6)]
    labels = rng.integers(c, size=len(labelled))
    half = len(labelled) // 2
    return {
        "features": features,
        "logits": logits,
        "mc_logits": logits + rng.standard_normal((4, n, c)).astype(np.float32),
        "images": features.reshape(n, 1, 1, d),
        "model": layer,
        "labelled": labelled,
        "labels": labels,
        "sets": {"query": labelled[:half], "private": labelled[half:]},
        "set_labels": {"query": labels[:half], "private": labels[half:]},
    }


def linear(weights: np.ndarray, bias: np.ndarray) -> Classifier:
    """A classifier whose features are the pixels; weights: (d, c)."""
    head = torch.nn.Linear(*weights.shape)
    head.load_state_dict({"weight": torch.from_numpy(weights.T.copy()), "bias": torch.from_numpy(bias)})
    return Classifier(torch.nn.Flatten(), head).eval().requires_grad_(False)


def dense(data: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the unlabelled examples, in float64: indices, features, probabilities, softmax - onehot(argmax)."""
    unlabelled = np.setdiff1d(np.arange(len(data["features"])), data["labelled"])
    logits = data["logits"][unlabelled].astype(np.float64)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    return unlabelled, data["features"][unlabelled].astype(np.float64), p, p - np.eye(p.shape[1])[p.argmax(1)]


def duplicates() -> dict:
    a = arrays()
    return a | {key: np.repeat(a[key][:6], 10, axis=0) for key in ("features", "logits", "images")}


def zero_vectors() -> dict:
    a = arrays()
    return a | {key: np.zeros_like(a[key]) for key in ("features", "logits", "mc_logits", "images")}


def certain() -> dict:
    a = arrays()
    sure = np.where(a["logits"] == a["logits"].max(1, keepdims=True), 200, -200).astype(np.float32)
    return a | {"logits": sure, "mc_logits": np.repeat(sure[None], 4, axis=0)}


def one_class() -> dict:
    a = arrays()
    return a | {
        "logits": a["logits"][:, :1],
        "mc_logits": a["mc_logits"][..., :1],
        "model": linear(a["model"].head.weight.numpy().T[:, :1], a["model"].head.bias.numpy()[:1]),
        "labels": np.zeros_like(a["labels"]),
        "set_labels": {key: np.zeros_like(labels) for key, labels in a["set_labels"].items()},
    }


def one_label() -> dict:
    a = arrays()
    return a | {"labels": np.zeros_like(a["labels"])}


def half() -> dict:
    a = arrays()
    return a | {"features": a["features"].astype(np.float16)}


# situation -> (arrays, budget)
SITUATIONS = {
    "a usual pool": (arrays, 12),
    "one example": (arrays, 1),
    "everything left": (arrays, 50),
    "everything left of duplicates": (duplicates, 50),
    "duplicates": (duplicates, 12),
    "zero vectors": (zero_vectors, 12),
    "logits of 200 and -200": (certain, 12),
    "a single class": (one_class, 12),
    "labels of one class": (one_label, 12),
    "features in 16 bits": (half, 12),
}


@EVERY
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_query_is_as_many_distinct_unlabelled_examples_as_asked(name, hyperparameters, situation):
    make, budget = SITUATIONS[situation]
    data = make()
    before = {key: array.copy() for key, array in data.items() if isinstance(array, np.ndarray)}
    picks = run(name, Pool.from_arrays(**data), budget, np.random.default_rng(0), **hyperparameters)
    assert picks.index.dtype == np.int64
    assert picks.index.shape == (budget,)
    assert len(set(picks.index.tolist())) == budget
    assert not set(picks.index.tolist()) & set(data["labelled"].tolist())
    assert set(picks.index.tolist()) <= set(range(60))
    assert picks.score is None or (picks.score.shape == (budget,) and np.isfinite(picks.score).all())
    for key, array in before.items():
        np.testing.assert_array_equal(data[key], array, err_msg=f"{name} changed its input '{key}'")


@EVERY
def test_the_same_seed_gives_the_same_answer_and_another_seed_another_where_it_draws(name, hyperparameters):
    data = arrays(1500)
    answers, drew = [], []
    for seed in (0, 0, 1, 2, 3, 4, 5, 6):
        rng = np.random.default_rng(seed)
        start = rng.bit_generator.state
        answers.append(run(name, Pool.from_arrays(**data), 10, rng, **hyperparameters).index.tolist())
        drew.append(rng.bit_generator.state != start)
    assert answers[0] == answers[1]
    assert len(set(drew)) == 1
    assert (len({tuple(answer) for answer in answers}) > 1) == drew[0]


@EVERY
def test_files_and_arrays_give_the_same_picks(name, hyperparameters, tmp_path):
    data = arrays(200)
    fields = {"outputs": {key: data[key] for key in ("features", "logits")}}
    fields |= {view: {"mc_logits": data["mc_logits"]} for view in ("mc_dropout10", "ensemble10")}
    needs = set(settings(name, hyperparameters, sets=data["sets"])["needs"]) & set(fields)
    views = {view: write_view(tmp_path / f"{view}.h5", view, fields[view]) for view in needs}
    more = {key: data[key] for key in ("images", "model", "sets", "set_labels")}
    labels = Labels(data["labelled"], data["labels"], np.zeros(len(data["labels"]), dtype=np.int64))
    write_labels(tmp_path / "labels.csv", labels, identity=identity("label"), digest="d1")
    pool = Pool.open(views, tmp_path / "labels.csv", size=200, **more)
    expected = select(name, Pool.from_arrays(**data), budget=20, seed=3, **hyperparameters)
    assert select(name, pool, budget=20, seed=3, **hyperparameters).tolist() == expected.tolist()


@EVERY
def test_picks_do_not_depend_on_the_order_of_the_pool(name, hyperparameters):
    data, order = arrays(200), np.random.default_rng(9).permutation(200)
    rng = np.random.default_rng(0)
    start = rng.bit_generator.state
    picks = run(name, Pool.from_arrays(**data), 10, rng, **hyperparameters)
    if rng.bit_generator.state != start:
        pytest.skip("draws examples by their place in the pool")
    place = np.argsort(order)
    moved = {key: data[key][order] for key in ("features", "logits", "images")}
    moved |= {"mc_logits": data["mc_logits"][:, order], "labelled": place[data["labelled"]]}
    moved |= {"sets": {key: place[index] for key, index in data["sets"].items()}}
    there = select(name, Pool.from_arrays(**{**data, **moved}), budget=10, **hyperparameters)
    assert order[there].tolist() == picks.index.tolist()


def test_memory_is_bound_by_the_inputs_and_not_by_n_times_n_or_n_times_gradients():
    """In a process of its own, whose peak nothing else has raised: 10,000 x (100 x 256), where the gradients would take
    1 GB, all pairs 400 MB, and the inputs take 14 MB (4 draws of the logits 16 MB more)."""
    code = """
import resource, sys
import numpy as np
from test_strategies import linear
from allround.pool import Pool
from allround.strategies import names, select

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # MB

def pool(n):
    rng = np.random.default_rng(0)
    h, z = rng.standard_normal((n, 256), dtype=np.float32), rng.standard_normal((n, 100), dtype=np.float32)
    labelled = np.arange(0, n, 25)
    sets, labels = {"query": labelled[::2], "private": labelled[1::2]}, {}
    more = {"images": h.reshape(n, 1, 16, 16), "model": linear(rng.standard_normal((256, 100)), np.zeros(100))}
    more |= {"mc_logits": np.stack([z, -z, z + 1, z * 2]), "sets": sets}
    more |= {"set_labels": {key: index % 100 for key, index in sets.items()}}
    return Pool.from_arrays(h, z, labelled=labelled, labels=labelled % 100, **more)

for name in names():
    select(name, pool(500), budget=5)  # libraries set themselves up
large = pool(10_000)
start = peak()
for name in names():
    select(name, large, budget=10)
    print(name, round(peak() - start), "MB")
"""
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout
    grown = {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}
    assert set(grown) == set(names())
    assert max(grown.values()) < 168, grown


@pytest.mark.gpu
@EVERY
def test_the_gpu_picks_what_the_cpu_picks(name, hyperparameters):
    data = arrays(2000, d=32, c=10)
    here = select(name, Pool.from_arrays(**data), budget=100, **hyperparameters)
    place = device.choose("cuda", exact=True)
    data["model"] = data["model"].to(place)
    pool = Pool.from_arrays(**data, device=str(place))
    there = select(name, pool, budget=100, **hyperparameters)
    assert there.tolist() == select(name, pool, budget=100, **hyperparameters).tolist()
    sure = 10 if name == "batch_bald" else 20  # later, rounding may decide between equals
    assert there[:sure].tolist() == here[:sure].tolist()
