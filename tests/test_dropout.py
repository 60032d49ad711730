"""Draws of the posterior: Monte Carlo dropout that drops, batch normalisation that does not, ensembles, their views."""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from allround import learners
from allround.artifacts import open_view
from allround.errors import AllroundError
from allround.identity import canonical
from allround.learners import inference
from allround.learners.augmentation import moments, normalise
from allround.learners.dropout import RATE, draws, on_features
from allround.learners.model import Classifier, build

SCALE = {"mean": (0.4,) * 3, "std": (0.25,) * 3}
CPU = torch.device("cpu")
SMALL_VIT = {"img_size": 32, "patch_size": 8}
NETWORKS = {  # name -> (architecture, arguments, shape, rate of the dropout on the features; None: it is elsewhere)
    "cnn": ("cnn", {"width": 4}, (16, 16, 3), RATE),
    "cnn with dropout": ("cnn", {"width": 4, "dropout": 0.4}, (16, 16, 3), 0.4),
    "mlp": ("mlp", {"width": 256}, (8, 8, 3), RATE),
    "mlp with dropout in two layers": ("mlp", {"width": 256, "layers": 2, "dropout": 0.4}, (8, 8, 3), None),
    "resnet18": ("resnet18", {}, (16, 16, 3), RATE),
    "airbench": ("airbench", {"width": 8, "wide": 16}, (32, 32, 3), RATE),
    "torchvision, a module": ("torchvision:mobilenet_v3_small", {}, (32, 32, 3), 0.2),
    "timm, a call": ("timm:test_efficientnet", {"drop_rate": 0.3}, (32, 32, 3), 0.3),
    "timm, inside": ("timm:test_vit", {"proj_drop_rate": 0.3, **SMALL_VIT}, (32, 32, 3), None),
}


def network(name: str, seed: int = 0) -> tuple[Classifier, torch.Tensor]:
    """A network that has seen a batch in training mode, so that its batch statistics are not 0 and 1; ten images."""
    architecture, arguments, shape, _ = NETWORKS[name]
    torch.manual_seed(seed)
    model = build(learners.settings({"architecture": architecture, "arguments": arguments}, "test"), shape, 5)
    images = torch.randn(10, shape[2], *shape[:2])
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
        model.eval()
    return model, images


def sample(model, images, seeds):
    with torch.inference_mode():
        return draws(model, images, seeds, on_features(model, images[:1]))


@pytest.mark.parametrize("name", NETWORKS)
def test_passes_vary_around_the_output_and_leave_the_network_as_it_was(name):
    """The peers' fault: batch normalisation in training mode (the same images score differently in another batch, and
    the running statistics drift), and no dropout in a network that comes without."""
    model, images = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = sample(model, images, range(200))
    with torch.inference_mode():
        exact = model(images)
    assert logits.shape == (200, 10, 5)
    assert (logits[0] != logits[1]).any(1).all()  # of every image
    centred = logits - logits.mean(0)
    assert (centred[:, 0] - centred[:, 1]).abs().max() > 0  # images have masks of their own
    error = (logits.mean(0) - exact).abs() / logits.std(0).clamp(min=1e-12)
    assert error.max() < (5 / math.sqrt(200) if NETWORKS[name][3] else 1.5)  # dropout before ReLUs moves the mean
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(model(images), exact)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_drops_with_its_own_rate_or_is_given_one(name):
    model, images = network(name)
    drop, rate = on_features(model, images[:1]), NETWORKS[name][3]
    assert (drop.keywords["p"] if drop else None) == rate
    if rate:
        features, out = torch.ones(1000, 100), drop(torch.ones(1000, 100))
        assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
        assert torch.equal(out[out != 0], (features / (1 - rate))[out != 0])


@pytest.mark.parametrize("name", ["mlp with dropout in two layers", "cnn with dropout", "torchvision, a module"])
def test_draws_are_those_of_the_dropout_modules_alone_in_training_mode(name):
    """Against the textbook's way: the modules switched on by hand."""
    model, images = network(name)
    ours = sample(model, images, [3, 4])
    for module in model.modules():
        module.train(isinstance(module, nn.Dropout))
    for seed, logits in zip([3, 4], ours, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad():
            torch.testing.assert_close(logits, model(images))


def test_the_body_runs_once_where_only_the_features_are_dropped():
    model, images = network("cnn with dropout")
    runs = []
    model.body.register_forward_hook(lambda *_: runs.append(1))
    with torch.inference_mode():
        fast = draws(model, images, range(5), on_features(model, images[:1]))
        assert len(runs) == 2
        whole = draws(model, images, range(5), None)
    assert len(runs) == 7
    torch.testing.assert_close(fast, whole)


class Strict(nn.Module):
    """What must not happen: a module of another kind in training mode."""

    def forward(self, x):
        assert not self.training
        return x


@pytest.mark.parametrize(
    "module", [nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.Dropout(0.5, inplace=True)]
)
def test_every_kind_of_dropout_drops_and_nothing_else_trains(module):
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), module, Strict(), nn.Flatten())
    model, images = Classifier(body, nn.Linear(8 * 36, 5)).eval(), torch.randn(4, 3, 8, 8)
    assert on_features(model, images) is None
    logits = sample(model, images, range(3))
    assert (logits[0] != logits[1]).any(1).all()
    assert (logits[1] != logits[2]).any(1).all()


def test_the_default_generator_is_left_as_it_was():
    model, images = network("mlp")
    state = torch.get_rng_state()
    a, b = sample(model, images, [1, 2, 1]), sample(model, images, [1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a[0], a[2])
    assert torch.equal(a[0], b[0])


# --- views ------------------------------------------------------------------------------------------------------------


def images_of(shape=(8, 8, 3), n=50):
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)


def write(path, view, models, images, seed=0):
    name = view.rstrip("0123456789")
    cell = {"dataset": "x", "seed": seed, "round": 0, "view": view}
    import_module(f"allround.views.{name}").write(
        path,
        models,
        images,
        view=view,
        seeds=np.random.SeedSequence(seed, spawn_key=(7, 0)),
        **SCALE,
        device=CPU,
        identity=canonical({"stage": "embed", "cell": cell, "settings": {}, "inputs": {}, "code": ""}),
        digest="d",
    )
    return open_view(path, view).read("mc_logits")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setitem(inference.PIXELS, "cpu", 7 * 64)  # blocks of seven images


@pytest.mark.parametrize("name", ["mlp", "mlp with dropout in two layers"])
def test_the_view_of_mc_dropout_has_independent_passes_over_every_image(name, tmp_path, small_blocks):
    model, images = network(name)[0], images_of()
    images[7:14] = images[:7]  # two blocks of the same images
    logits = write(tmp_path / "a.h5", "mc_dropout30", [model], images)
    assert logits.shape == (30, 50, 5)
    assert logits.dtype == np.float32
    assert len({logits[t, i].tobytes() for t in range(30) for i in (0, 7)}) == 60
    with torch.no_grad():
        exact = model.eval()(normalise(torch.from_numpy(images), *moments(**SCALE, device=CPU))).numpy()
    assert np.abs(logits.mean(0) - exact).mean() < 0.5 * logits.std(0).mean()
    write(tmp_path / "b.h5", "mc_dropout30", [model], images)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert not np.array_equal(write(tmp_path / "c.h5", "mc_dropout30", [model], images, seed=1), logits)


def test_the_view_of_an_ensemble_has_one_forward_pass_of_each_member(tmp_path, small_blocks):
    models, images = [network("cnn", seed)[0].train() for seed in range(3)], images_of((16, 16, 3))
    logits = write(tmp_path / "a.h5", "ensemble3", models, images)
    batch = normalise(torch.from_numpy(images), *moments(**SCALE, device=CPU))
    with torch.no_grad():
        expected = torch.stack([model.eval()(batch) for model in models])
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("view", ["mc_dropout2", "ensemble2"])
def test_draws_that_are_not_finite_are_one_clear_line_and_leave_nothing_behind(view, tmp_path):
    models = [network("mlp", seed)[0] for seed in range(2)]
    with torch.no_grad():
        models[0].head.bias[1] = torch.nan
    with pytest.raises(AllroundError, match="outputs for images 0 to 49 are not finite") as error:
        write(tmp_path / "a.h5", view, models, images_of())
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_block_is_small_enough_for_many_passes_over_many_classes(tmp_path, monkeypatch):
    module = import_module("allround.views.mc_dropout")
    monkeypatch.setattr("allround.views._draws.NUMBERS", 30 * 5 * 4)  # blocks of four images
    seen = []
    monkeypatch.setattr(
        module, "draws", lambda model, block, *rest: seen.append(len(block)) or draws(model, block, *rest)
    )
    write(tmp_path / "a.h5", "mc_dropout30", [network("mlp")[0]], images_of())
    assert seen == [4] * 12 + [2]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cnn", "mlp with dropout in two layers", "timm, inside"])
def test_the_gpu_draws_around_the_same_output_and_repeats_itself(name):
    model, images = network(name)
    here = sample(model, images, range(100))
    model, images = model.cuda(), images.cuda()
    state = torch.cuda.get_rng_state()
    there = sample(model, images, range(100))
    assert torch.equal(there, sample(model, images, range(100)))
    assert torch.equal(state, torch.cuda.get_rng_state())
    torch.testing.assert_close(there.std(0).mean().cpu(), here.std(0).mean(), rtol=0.1, atol=0)
    assert ((there.mean(0).cpu() - here.mean(0)).abs() / here.std(0)).mean() < 0.3
    assert F.cosine_similarity(there[0] - there.mean(0), there[1] - there.mean(0), 1).abs().mean() < 0.9
