"""ALFA-Mix and the adversarial strategies against brute force in float64, written from their papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_strategies import linear
from torch import nn

from allround.errors import AllroundError
from allround.kernels.clusters import k_means
from allround.learners.model import Classifier
from allround.pool import Pool
from allround.strategies import run, select

# --- ALFA-Mix ---------------------------------------------------------------------------------------------------------


def mixing_data(n: int = 200, d: int = 6, c: int = 4, seed: int = 0) -> dict:
    """Features without exact zeros, of a linear model with one label of most classes and none of the last."""
    rng = np.random.default_rng(seed)
    features = (rng.standard_normal((n, d)) + 0.5).astype(np.float32)
    model = linear(1.5 * rng.standard_normal((d, c)).astype(np.float32), rng.standard_normal(c).astype(np.float32))
    labelled = rng.permutation(n)[:12]
    with torch.no_grad():
        logits = model.head(torch.from_numpy(features)).numpy()
    return {
        "features": features,
        "logits": logits,
        "labelled": labelled,
        "labels": rng.integers(c - 1, size=12),
        "model": model,
    }


def mixed_predictions(data: dict, eps: float) -> np.ndarray:
    """Of every unlabelled example, whether its prediction changes when it is mixed with any anchor: the authors'
    elementwise alpha, features mixed and sent through the head, one class after another."""
    unlabelled = np.setdiff1d(np.arange(len(data["features"])), data["labelled"])
    h = torch.from_numpy(data["features"].astype(np.float64))
    head = data["model"].head
    weight, bias = head.weight.double(), head.bias.double()
    z = h[unlabelled].clone().requires_grad_()
    predicted = (z @ weight.T + bias).argmax(1)
    torch.nn.functional.cross_entropy(z @ weight.T + bias, predicted, reduction="sum").backward()
    gradient, z, flipped = z.grad, z.detach(), torch.zeros(len(unlabelled), dtype=torch.bool)
    for y in range(len(weight)):
        own = h[data["labelled"][data["labels"] == y]]
        anchor = (own if len(own) else h[data["labelled"]]).mean(0)
        away = anchor - z
        alpha = eps * away.norm(dim=1, keepdim=True) / gradient.norm(dim=1, keepdim=True) * gradient / away
        flipped |= ((alpha * anchor + (1 - alpha) * z) @ weight.T + bias).argmax(1) != predicted
    return unlabelled[flipped.numpy()]


def first_cap(data: dict, k: int) -> tuple[float, np.ndarray]:
    for step in range(1, 33):
        candidates = mixed_predictions(data, step * 0.03125 / np.sqrt(data["features"].shape[1]))
        if len(candidates) > k:
            break
    return step * 0.03125, candidates


@pytest.mark.parametrize("seed", range(4))
def test_alfa_mix_candidates_are_those_whose_prediction_flips_when_features_are_mixed(seed):
    """One division a class instead of a forward pass a class and cap: the same candidates, and of these the nearest to
    the centre of each of as many clusters as are asked for."""
    data, k = mixing_data(seed=seed), 15
    _, candidates = first_cap(data, k)
    assert len(candidates) > k
    vectors = data["features"][candidates] / np.linalg.norm(data["features"][candidates], axis=1, keepdims=True)
    centres, cluster = k_means(torch.from_numpy(vectors), k, np.random.default_rng(seed))
    distance = np.linalg.norm(vectors - centres.numpy()[cluster], axis=1)
    nearest = np.array([distance[cluster == j].min() for j in range(k)])
    picks = run("alfa_mix", Pool.from_arrays(**data), k, np.random.default_rng(seed))
    rows = np.searchsorted(candidates, picks.index)
    assert candidates[rows].tolist() == picks.index.tolist()
    assert sorted(cluster[rows].tolist()) == list(range(k))
    np.testing.assert_allclose(distance[rows], nearest[cluster[rows]], atol=2e-5)
    assert (np.diff(picks.score) <= 0).all()


def test_alfa_mix_goes_on_with_what_flips_next_where_candidates_are_too_few():
    """The authors fill the batch at random and with replacement: an example could be picked twice."""
    data = mixing_data()
    data["model"].head.weight.mul_(0.5)
    data["model"].head.bias.mul_(4)
    data["logits"] = data["model"].head(torch.from_numpy(data["features"])).numpy()
    k = 180
    cap, candidates = first_cap(data, k)
    assert cap == 1
    assert 0 < len(candidates) < k
    picks = run("alfa_mix", Pool.from_arrays(**data), k, np.random.default_rng(0))
    assert set(picks.index[: len(candidates)].tolist()) == set(candidates.tolist())
    for end in (len(candidates) + 10, len(candidates) + 30):
        eps = 1 / picks.score[end - 1] - 1
        assert set(picks.index[:end].tolist()) == set(mixed_predictions(data, eps * (1 + 1e-4)).tolist())


def test_alfa_mix_says_that_it_needs_labels():
    data = {key: mixing_data()[key] for key in ("features", "logits", "model")}
    with pytest.raises(AllroundError, match="labelled set, which is empty here"):
        select("alfa_mix", Pool.from_arrays(**data), budget=3)
    for labels in (None, [0, 99], [-1, 0]):
        with pytest.raises(AllroundError, match=r"alfa_mix: every labelled example needs a label in 0\.\."):
            select("alfa_mix", Pool.from_arrays(**data, labelled=[0, 1], labels=labels), budget=3)


# --- adversarial ------------------------------------------------------------------------------------------------------

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def network(c: int = 4, seed: int = 0) -> Classifier:
    """A small convolutional network with batch normalisation whose running statistics matter."""
    torch.manual_seed(seed)
    convolution = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)]
    body = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(24, 8), nn.Tanh())
    model = Classifier(body, nn.Linear(8, c))
    with torch.no_grad():
        model.head.weight.mul_(3)
    for _ in range(3):
        model(torch.randn(64, 3, 4, 4))
    return model.eval().requires_grad_(False)


def photographs(n: int = 24, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(n, 4, 4, 3)).astype(np.uint8)


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) as (n, 3, h, w) float64 in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255


def through(model: Classifier):
    """The logits (1, c) of pixels (3, h, w) in 0..1, in float64."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return lambda image: model.double()(((image - mean) / std)[None])[0]


def dense_deepfool(f, image: torch.Tensor, steps: int = 50, overshoot: float = 0.02, classes: int = 10) -> float:
    """Algorithm 2 of the paper, one image, one class after another, by the pixels that can move; inf: not fooled."""
    order = f(image).argsort(descending=True)[:classes]
    way = torch.zeros_like(image)
    for _ in range(steps):
        here = (image + (1 + overshoot) * way).clamp(0, 1).requires_grad_()
        logits = f(here)
        found = []
        for k in order[1:]:
            gap = logits[k] - logits[order[0]]
            w = torch.autograd.grad(gap, here, retain_graph=True)[0]
            w[((here == 1) & (w > 0)) | ((here == 0) & (w < 0))] = 0
            found.append((float(gap.detach().abs() / w.norm()), gap.detach().abs() / w.norm() ** 2 * w))
        way = (image + way + min(found, key=lambda one: one[0])[1]).clamp(0, 1) - image
        there = (image + (1 + overshoot) * way).clamp(0, 1)
        if f(there).argmax() != order[0]:
            return float((there - image).norm())
    return np.inf


def dense_bim(f, image: torch.Tensor, steps: int = 100, step_size: float = 1.0) -> float:
    """Pixels move by step_size / 255 up the cross-entropy of the first prediction, and are clipped."""
    label, there = f(image).argmax(), image
    for _ in range(steps):
        here = there.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(f(here)[None], label[None])
        there = (there + step_size / 255 * torch.autograd.grad(loss, here)[0].sign()).clamp(0, 1)
        if f(there).argmax() != label:
            return float((there - image).norm())
    return np.inf


def margins(f, images: torch.Tensor) -> np.ndarray:
    top = torch.stack([f(image).softmax(0).sort(descending=True).values for image in images]).detach()
    return (top[:, 0] - top[:, 1]).numpy()


def adversarial_pool(images: np.ndarray, model: Classifier, labelled: tuple = (3, 7)) -> Pool:
    return Pool.from_arrays(
        images=images, model=model, scale=(MEAN, STD), labelled=labelled, labels=[0] * len(labelled)
    )


def test_deepfool_distances_are_those_of_one_image_at_a_time_in_float64():
    images = photographs()
    f = through(network())
    expected = np.array([dense_deepfool(f, image) for image in pixels(images)])
    unlabelled = np.setdiff1d(np.arange(24), [3, 7])
    picks = run("adversarial_deepfool", adversarial_pool(images, network()), 22, np.random.default_rng(0))
    assert np.isfinite(expected).sum() > 15
    order = unlabelled[np.argsort(expected[unlabelled], kind="stable")]
    fooled = int(np.isfinite(expected[unlabelled]).sum())
    assert picks.index[:fooled].tolist() == order[:fooled].tolist()
    np.testing.assert_allclose(picks.score[:fooled], expected[order[:fooled]], rtol=1e-3)


def test_deepfool_of_a_linear_model_is_the_distance_to_the_nearest_boundary():
    """min over k of |f_k| / |w_k|, times the overshoot. DISTIL's first version never lowers the least distance that it
    compares with, so that the last class wins, nearest or not: its distances are larger, and its picks others."""
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((12, 5)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    images = rng.standard_normal((40, 3, 2, 2)).astype(np.float32)
    logits = images.reshape(40, 12).astype(np.float64) @ weights + bias
    first = logits.argmax(1)
    lengths = np.linalg.norm(weights.T[None] - weights.T[first][:, None], axis=2)  # (n, c)
    with np.errstate(invalid="ignore"):
        distances = (logits.max(1, keepdims=True) - logits) / lengths
    nearest, last = np.nanmin(distances, 1), np.where(first == 4, distances[:, 3], distances[:, 4])
    pool = Pool.from_arrays(images=images, model=linear(weights, bias))
    picks = run("adversarial_deepfool", pool, 40, np.random.default_rng(0))
    assert picks.index.tolist() == np.argsort(nearest, kind="stable").tolist()
    np.testing.assert_allclose(picks.score, 1.02 * np.sort(nearest), rtol=1e-4)
    assert np.argsort(last)[:10].tolist() != picks.index[:10].tolist()
    assert (last >= nearest).all()


def test_deepfool_looks_at_no_more_classes_than_it_is_told():
    """The boundary to the second most likely class is not always the nearest."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((12, 5)) * [1, 1, 1, 4, 4]).astype(np.float32)
    images = rng.standard_normal((40, 3, 2, 2)).astype(np.float32)
    pool = Pool.from_arrays(images=images, model=linear(weights, np.zeros(5, np.float32)))
    scores = {}
    for classes in (2, 10, None):
        picks = run("adversarial_deepfool", pool, 40, np.random.default_rng(0), classes=classes)
        scores[classes] = picks.score[np.argsort(picks.index)]
    assert scores[10].tolist() == scores[None].tolist()
    assert (scores[2] >= scores[None] - 1e-6).all()
    assert (scores[2] > scores[None] + 1e-3).any()


@pytest.mark.parametrize(("steps", "step_size"), [(100, 1.0), (6, 4.0)])
def test_bim_distances_are_those_of_one_image_at_a_time_in_float64(steps, step_size):
    """Those that have not changed class after `steps` come last. (DISTIL ranks them by how far they went.)"""
    images = photographs()
    f = through(network())
    whole = pixels(images)
    distance = np.array([dense_bim(f, image, steps, step_size) for image in whole])
    margin, unlabelled = margins(f, whole), np.setdiff1d(np.arange(24), [3, 7])
    fooled = np.isfinite(distance)
    assert fooled.sum() > 5
    score = np.where(fooled, distance + step_size / 255 * margin, 1e3 + margin)[unlabelled]
    options = {"steps": steps, "step_size": step_size}
    picks = run("adversarial_bim", adversarial_pool(images, network()), 22, np.random.default_rng(0), **options)
    assert picks.index.tolist() == unlabelled[np.argsort(score, kind="stable")].tolist()
    count = int(fooled[unlabelled].sum())
    np.testing.assert_allclose(picks.score[:count], np.sort(score)[:count], rtol=1e-4)
    assert steps > 6 or count < 22
    assert count == 22 or picks.score[count:].min() > picks.score[:count].max()


def test_bim_on_a_linear_model_takes_as_many_steps_as_the_gap_needs():
    """Of two classes the gap falls by step_size / 255 * |w|_1 a step."""
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((12, 2)).astype(np.float32), rng.standard_normal(2).astype(np.float32)
    images = rng.standard_normal((40, 3, 2, 2)).astype(np.float32) / 4
    logits = images.reshape(40, 12).astype(np.float64) @ weights + bias
    fall = np.abs(weights[:, 0] - weights[:, 1]).sum() / 255
    steps = np.ceil(np.abs(logits[:, 0] - logits[:, 1]) / fall)
    pool = Pool.from_arrays(images=images, model=linear(weights, bias))
    picks = run("adversarial_bim", pool, 40, np.random.default_rng(0), steps=1000)
    taken = np.floor(picks.score / (np.sqrt(12) / 255) + 1e-3)
    assert taken.tolist() == steps[picks.index].tolist() == np.sort(steps).tolist()


def test_bim_moves_images_that_the_model_is_sure_of():
    """A gap of 200 has a cross-entropy whose gradient is 0 in float32: its sign leads nowhere. In DISTIL such an image
    stays at distance 0 for 1,000 steps, and is picked first."""
    weights = np.array([[400.0, 0], [0, 400]], np.float32)
    images = np.array([[1.0, 0.5], [0.5, 0.8], [0.9, 0.45]], np.float32).reshape(3, 1, 1, 2)
    pool = Pool.from_arrays(images=images, model=linear(weights, np.zeros(2, np.float32)))
    picks = run("adversarial_bim", pool, 3, np.random.default_rng(0))
    assert picks.index.tolist() == [1, 2, 0]
    assert (picks.score < 1).all()


@pytest.mark.parametrize("name", ["adversarial_bim", "adversarial_deepfool"])
def test_what_never_changes_class_comes_last_by_its_margin(name):
    """A model that does not look at images, but for the first pixel of the first five."""
    weights = np.zeros((4, 3), np.float32)
    weights[0] = 1, 0, 0
    images = np.random.default_rng(0).integers(256, size=(12, 2, 2, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(12) * 20 + 5  # from 5 to 225: above 0 the first class wins, at any value
    model = linear(weights, np.array([0.2, 0, -0.1], np.float32))
    pool = Pool.from_arrays(images=images, model=model, scale=((0.0,), (1.0,)))
    picks = run(name, pool, 12, np.random.default_rng(0))
    assert picks.index.tolist() == list(range(12))  # the larger the pixel, the larger the margin
    assert (np.diff(picks.score) > 0).all()


@pytest.mark.parametrize("name", ["adversarial_bim", "adversarial_deepfool"])
def test_an_attack_leaves_the_model_as_it_was(name):
    model, images = network().requires_grad_(True), photographs()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    select(name, adversarial_pool(images, model), budget=3)
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert not model.training
