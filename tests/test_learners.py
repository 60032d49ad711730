"""Architectures, training mathematics, augmentation, metrics: what a learner's results rest on."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from allround import learners
from allround.errors import AllroundError
from allround.identity import canonical
from allround.learners import augmentation, optimisers, resume, steps, training
from allround.learners.inference import outputs
from allround.learners.model import build, load, pack, unpack, weights
from allround.learners.schedules import rates
from allround.learners.scores import BINS, evaluate

CATALOGUE = Path(__file__).parents[1] / "config/catalogue/learners.yaml"
CPU = torch.device("cpu")
LIBRARY = [  # one of each kind of head
    ("torchvision:resnet18", {}, (32, 32, 3)),
    ("torchvision:mobilenet_v3_small", {}, (32, 32, 1)),
    ("torchvision:shufflenet_v2_x0_5", {}, (32, 32, 3)),
    ("timm:resnet10t", {"zero_init_last": False}, (32, 32, 1)),
    ("timm:vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1}, (32, 32, 3)),
]


def learner(**entry):
    return learners.settings({"architecture": "mlp", **entry}, "test")


def problem(n=40, shape=(8, 8, 1), classes=4, seed=0):
    """Images whose brightest quadrant is their class: learnable in seconds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = rng.integers(0, 120, (n, *shape)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 2)
        image[y * shape[0] // 2 :, x * shape[1] // 2 :][: shape[0] // 2, : shape[1] // 2] += 120
    return images, labels


def fit(entry, *, n=40, shape=(8, 8, 1), seed=0, log=lambda line: None, **options):
    images, labels = problem(n, shape)
    scale = {"mean": (0.4,) * shape[2], "std": (0.25,) * shape[2]}
    seeds = np.random.SeedSequence(seed)
    return training.fit(images, labels, entry, classes=4, seeds=seeds, device=CPU, log=log, **scale, **options)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


# --- architectures ----------------------------------------------------------------------------------------------------


def models():
    for name in learners.names():
        for shape in ((8, 8, 1), (28, 28, 1), (32, 32, 3)):
            if not (name in ("airbench", "resnet18") and shape[0] == 8):
                yield pytest.param(name, {}, shape, id=f"{name}-{shape[0]}")
    for name, arguments, shape in LIBRARY:
        yield pytest.param(name, arguments, shape, id=name)


@pytest.mark.parametrize(("name", "arguments", "shape"), list(models()))
def test_features_and_head_give_the_logits_and_every_weight_learns(name, arguments, shape):
    torch.manual_seed(0)
    model = build(learner(architecture=name, arguments=arguments), shape, 5)
    images = torch.randn(4, shape[2], *shape[:2]).to(memory_format=torch.channels_last)
    features, logits = model.eval().outputs(images)
    assert features.shape[0] == 4 and features.dim() == 2 and logits.shape == (4, 5)
    assert torch.equal(logits, model(images)) and torch.equal(logits, model.head(features))
    assert logits.std(0).min() > 0  # the images are told apart
    F.cross_entropy(model.train()(images), torch.arange(4)).backward()
    still = [key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [key for key in still if not key.endswith("bias")]


def test_timm_features_and_logits_are_those_of_timms_own_model():
    import timm

    torch.manual_seed(0)
    ours = build(learner(architecture="timm:resnet10t"), (32, 32, 3), 5).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=5, in_chans=3).eval()
    images = torch.randn(2, 3, 32, 32)
    features, logits = ours.outputs(images)
    torch.testing.assert_close(logits, theirs(images))
    torch.testing.assert_close(features, theirs.forward_head(theirs.forward_features(images), pre_logits=True))


def test_the_first_layer_of_airbench_whitens_the_labelled_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    images[..., 1] = images[..., 0] // 2 + images[..., 1] // 2  # correlated channels
    model = build(learner(architecture="airbench"), (32, 32, 3), 10)
    mean, std = augmentation.moments((0.5,) * 3, (0.3,) * 3, CPU)
    batch = augmentation.normalise(torch.from_numpy(images), mean, std)
    training.architecture("airbench").prepare(model.body, batch)
    answers = model.body[0](batch)[:, :12].permute(1, 0, 2, 3).flatten(1)  # (12, all positions), the positive half
    second = answers @ answers.T / answers.shape[1]
    torch.testing.assert_close(second, torch.eye(12), atol=0.05, rtol=0)


def test_the_whitening_looks_at_few_images_spread_over_all_and_in_blocks_of_them(monkeypatch):
    monkeypatch.setattr(training, "PREPARED_IMAGES", 20)
    airbench = training.architecture("airbench")
    seen, entry = [], learner(architecture="airbench")
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
    scale = (0.5,) * 3, (0.3,) * 3

    def first(pixels):
        monkeypatch.setattr(airbench, "PIXELS", pixels)
        seeds = np.random.SeedSequence(0)
        return training._initial(images, entry, (16, 16, 3), 10, *scale, seeds, None).body[0].weight

    whole, again, blocks = first(10**9), first(10**9), first(3 * 256)
    assert torch.equal(whole, again)
    torch.testing.assert_close(whole, blocks)
    monkeypatch.setattr(airbench, "prepare", lambda body, few: seen.append(few))
    first(1)
    few = augmentation.normalise(torch.from_numpy(images[np.arange(20) * 70 // 20]), *augmentation.moments(*scale, CPU))
    assert torch.equal(seen[0], few)


@pytest.mark.parametrize(
    ("entry", "shape", "says"),
    [
        ({"architecture": "airbench"}, (5, 5, 1), "images of 5 x 5 x 1 do not fit the architecture airbench"),
        ({"architecture": "torchvision:vgg11"}, (8, 8, 3), "images of 8 x 8 x 3 do not fit"),
        ({"architecture": "torchvision:squeezenet1_1"}, (32, 32, 3), "does not end in a linear layer"),
        ({"architecture": "torchvision:resnet18", "arguments": {"weights": "CAT"}}, (32, 32, 3), "KeyError: 'CAT'"),
        (
            {"architecture": "timm:resnet10t", "arguments": {"wide": 3}},
            (32, 32, 3),
            "unexpected keyword argument 'wide'",
        ),
    ],
)
def test_an_architecture_that_cannot_be_built_is_one_clear_line(entry, shape, says):
    with pytest.raises(AllroundError) as error:
        build(learner(**entry), shape, 10)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("library", "builder", "name", "arguments", "remedy"),
    [
        ("timm", "create_model", "timm:resnet10t", {"pretrained": True}, "pretrained: false"),
        ("torchvision.models", "get_model", "torchvision:resnet18", {"weights": "DEFAULT"}, "weights: null"),
    ],
)
def test_weights_that_cannot_be_fetched_are_one_clear_line(monkeypatch, library, builder, name, arguments, remedy):
    from huggingface_hub.errors import LocalEntryNotFoundError

    entry = learner(architecture=name, arguments=arguments)
    for fault in (LocalEntryNotFoundError("no network\nat all"), URLError("no network"), ConnectionError("no network")):

        def offline(*_, fault=fault, **__):
            raise fault

        monkeypatch.setattr(importlib.import_module(library), builder, offline)
        with pytest.raises(AllroundError, match=rf"the weights of {name} could not be fetched") as error:
            build(entry, (32, 32, 3), 10)
        assert f"connect this machine once, or set {remedy}" in str(error.value) and "\n" not in str(error.value)


# --- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", yaml.safe_load(CATALOGUE.read_text()))
def test_every_learner_of_the_catalogue_is_valid_and_its_settings_are_json(name):
    entry = yaml.safe_load(CATALOGUE.read_text())[name]
    settings = learners.settings(entry, name)
    assert learners.settings(settings, name) == settings
    assert json.loads(canonical(settings)) == settings
    assert all(
        Path(learners.FOLDER / f"{module.rpartition('.')[2]}.py").exists() for module in learners.modules(settings)
    )


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, "needs the key 'architecture'"),
        ({"architecture": "resnet81"}, "unknown architecture 'resnet81'. Did you mean 'resnet18'?"),
        ({"architecture": "tim:resnet10t"}, "unknown architecture"),
        ({"architecture": "timm:"}, "needs a name"),
        ({"architecture": "mlp", "epoch": 3}, "unknown key 'epoch'. Did you mean 'epochs'?"),
        ({"architecture": "mlp", "epochs": 0}, "'epochs' is 0; allowed: whole numbers from 1"),
        ({"architecture": "mlp", "epochs": 1.5}, "'epochs' is 1.5"),
        ({"architecture": "mlp", "batch_size": True}, "'batch_size' is True"),
        ({"architecture": "mlp", "arguments": {"widht": 3}}, "unknown argument of mlp 'widht'. Did you mean 'width'?"),
        ({"architecture": "mlp", "arguments": {"width": 3.5}}, "argument 'width' of mlp is 3.5"),
        (
            {"architecture": "mlp", "arguments": {"width": 0}},
            "argument 'width' of mlp is 0; allowed: whole numbers from 1 to",
        ),
        ({"architecture": "mlp", "arguments": {"layers": 0}}, "argument 'layers' of mlp is 0; allowed: whole numbers"),
        (
            {"architecture": "cnn", "arguments": {"hidden": -1}},
            "argument 'hidden' of cnn is -1; allowed: whole numbers",
        ),
        (
            {"architecture": "cnn", "arguments": {"dropout": 1}},
            "argument 'dropout' of cnn is 1; allowed: numbers from 0 to 0.999",
        ),
        (
            {"architecture": "airbench", "arguments": {"scale": 0}},
            "argument 'scale' of airbench is 0; allowed: numbers",
        ),
        ({"architecture": "torchvision:resnet19"}, "unknown torchvision classifier 'resnet19'. Did you mean 'resnet1"),
        ({"architecture": "timm:resnet10x"}, "unknown timm model 'resnet10x'. Did you mean 'resnet10t'"),
        ({"architecture": "mlp", "optimiser": {"lr": 1}}, "key 'optimiser' needs a name"),
        ({"architecture": "mlp", "optimiser": "sdg"}, "unknown optimiser 'sdg'. Did you mean 'sgd'?"),
        (
            {"architecture": "mlp", "optimiser": {"name": "adam", "momentum": 0.9}},
            "unknown key of optimiser adam 'momentum'",
        ),
        ({"architecture": "mlp", "optimiser": {"name": "sgd", "momentum": 0}}, "nesterov needs a momentum"),
        ({"architecture": "mlp", "schedule": {"name": "cosin"}}, "unknown schedule 'cosin'. Did you mean 'cosine'?"),
        (
            {"architecture": "mlp", "augmentation": {"flop": True}},
            "unknown key of augmentation 'flop'. Did you mean 'flip'?",
        ),
        ({"architecture": "mlp", "augmentation": {"flip": 1}}, "'flip' is 1; allowed: true or false"),
        ({"architecture": "mlp", "stop": {"train_accuracy": 99}}, "'train_accuracy' is 99"),
        ({"architecture": "mlp", "initialisation": "cold"}, "unknown initialisation 'cold'"),
        ({"architecture": "mlp", "precision": "float16"}, "unknown precision 'float16'. Did you mean"),
    ],
)
def test_a_mistake_in_the_catalogue_is_one_clear_line(entry, says):
    with pytest.raises(AllroundError) as error:
        learners.settings(entry, "learners.yaml entry 'mine'")
    assert str(error.value).startswith("learners.yaml entry 'mine': ") and says in str(error.value)
    assert "\n" not in str(error.value)


def test_every_argument_of_our_architectures_has_a_range_and_those_of_others_are_like_their_defaults(
    tmp_path, monkeypatch
):
    for name in learners.names():
        assert learners._keywords(name).keys() <= learners.ARGUMENT_RANGES.keys()
    (tmp_path / "mine.py").write_text("def build(shape, classes, *, depth=3, pool='max', crop=0.5): ...")
    monkeypatch.setattr(learners, "FOLDER", tmp_path)
    assert learner(architecture="mine", arguments={"crop": 7})["arguments"] == {"depth": 3, "pool": "max", "crop": 7}
    with pytest.raises(AllroundError, match=r"argument 'depth' of mine is 'deep'; allowed: values like 3\."):
        learner(architecture="mine", arguments={"depth": "deep"})


def test_planning_never_waits_for_torch():
    code = (
        "import sys, yaml; from allround import learners\n"
        f"for name, entry in yaml.safe_load(open({str(CATALOGUE)!r})).items():\n"
        "    learners.modules(learners.settings(entry, name))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- augmentation -----------------------------------------------------------------------------------------------------


def naive(image, dy, dx, flip, crop, padding):
    mode = "constant" if padding == "zero" else "reflect"
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)), mode=mode)
    window = padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
    return window[:, ::-1] if flip else window


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 12, 1)])
def test_every_image_gets_the_crop_and_the_flip_drawn_for_it(padding, shape):
    images = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(np.uint8)
    augment = {"crop": 3, "flip": True, "padding": padding, "cutout": 0}
    draws = augmentation.draw(np.random.default_rng(1), (1, 50), shape[:2], augment)[0]
    index = np.random.default_rng(2).integers(0, 20, 50)
    padded = torch.from_numpy(augmentation.pad(images, augment))
    ours = augmentation.gather(padded, torch.from_numpy(index), torch.from_numpy(draws), shape[:2]).numpy()
    for i, (dy, dx, flip) in enumerate(draws[:3].T):
        np.testing.assert_array_equal(ours[i], naive(images[index[i]], dy, dx, flip, 3, padding))
    assert all(set(drawn) == set(range(7)) for drawn in draws[:2]) and set(draws[2]) == {0, 1}


def test_cutout_greys_a_square_around_the_drawn_centre():
    draws = torch.zeros(augmentation.DRAWS, 3, dtype=torch.int64)
    draws[3:] = torch.tensor([[0, 5, 9], [0, 5, 2]])
    images = torch.ones(3, 2, 10, 10).to(memory_format=torch.channels_last)
    out = augmentation.cut_out(images, draws, 4)
    assert out.is_contiguous(memory_format=torch.channels_last)  # what a network in that layout would make of it
    for k, (cy, cx) in enumerate(draws[3:].T.tolist()):
        reference = np.ones((10, 10))
        reference[max(0, cy - 2) : cy + 2, max(0, cx - 2) : cx + 2] = 0
        np.testing.assert_array_equal(out[k, 1].numpy(), reference)


def test_a_pixel_is_normalised_by_its_own_channel():
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    mean, std = augmentation.moments((0.1, 0.2, 0.3), (0.5, 0.25, 0.0), CPU)
    out = augmentation.normalise(images, mean, std)
    assert out.shape == (1, 3, 1, 1)
    torch.testing.assert_close(out.flatten(), torch.tensor([-0.2, 0.0, 0.7]))


# --- order, schedules, optimisers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (7, 7), (1, 1), (9, 8), (100, 64)])
def test_every_example_is_seen_in_every_epoch_and_every_batch_is_full(n, batch):
    order = training.epoch_order(np.random.default_rng(0), n, batch)
    counts = np.bincount(order.ravel(), minlength=n)
    assert order.shape == (-(-n // batch), batch) and counts.min() == 1 and counts.max() <= 2


def test_schedules_go_where_their_documentation_says():
    assert set(rates({"name": "constant"}, 0.3, 5)) == {0.3}
    cosine = rates({"name": "cosine", "warmup": 0.0, "end": 0.0}, 2.0, 100)
    np.testing.assert_allclose(cosine, 1 + np.cos(np.pi * np.arange(100) / 100), atol=1e-12)
    warm = rates({"name": "cosine", "warmup": 0.1, "end": 0.1}, 2.0, 100)
    assert warm[0] == pytest.approx(0.2) and warm[10] == pytest.approx(2.0) and (np.diff(warm[:11]) > 0).all()
    assert 0.2 < warm[-1] < 0.21
    cycle = rates({"name": "one_cycle", "warmup": 0.25, "start": 0.2, "end": 0.0}, 1.0, 100)
    assert cycle[0] == pytest.approx(0.2) and cycle.argmax() == 25 and cycle[25] == pytest.approx(1.0)
    assert 0 < cycle[-1] < 0.02 and np.allclose(np.diff(cycle[25:]), -1 / 75)
    for name, options in learners.SCHEDULES.items():
        assert np.isfinite(rates({"name": name, **options}, 1.0, 1)).all()


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "sgd", "lr": 0.01, "weight_decay": 0.01},
        {"name": "sgd", "lr": 0.01, "momentum": 0, "nesterov": False},
        {"name": "sgd", "lr": 0.01, "nesterov": False, "weight_decay": 0.1, "norm_bias_lr": 8},
        {"name": "adam", "weight_decay": 0.1},
        {"name": "adamw", "norm_bias_lr": 3},
    ],
)
def test_optimisers_take_the_steps_of_torch_optim(entry):
    settings = learner(optimiser=entry)["optimiser"]
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.Linear(7, 3))
    theirs = nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.Linear(7, 3))
    theirs.load_state_dict(ours.state_dict())
    factor = settings["norm_bias_lr"]
    rest = [p for p in theirs.parameters() if p is not theirs[1].bias]
    special = {"lr": settings["lr"] * factor, "weight_decay": settings["weight_decay"] / factor}
    options = {key: value for key, value in settings.items() if key not in ("name", "norm_bias_lr")}
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings["name"]]
    reference = kind([{"params": rest}, {"params": [theirs[1].bias], **special}], **options)
    groups = optimisers.groups(ours, settings)
    for _ in range(6):
        x, y = torch.randn(8, 5), torch.randint(3, (8,))
        for model in (ours, theirs):
            F.cross_entropy(model(x), y).backward()
        reference.step()
        reference.zero_grad()
        for group in groups:
            optimisers.update(group, torch.tensor(settings["lr"]), settings)
        optimisers.forget_gradients(groups)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------

CNN = {
    "architecture": "cnn",
    "arguments": {"width": 4, "hidden": 16, "dropout": 0.2},
    "augmentation": {"crop": 1, "flip": True},
}


@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_a_learner_learns(architecture):
    entry = learner(architecture=architecture, epochs=30, batch_size=8, optimiser={"name": "adam", "lr": 0.01})
    fitted = fit(entry)
    images, labels = problem(80, seed=1)
    blocks = list(outputs(fitted.model, images, mean=(0.4,), std=(0.25,), device=CPU))
    assert fitted.train_accuracy > 0.95 and evaluate(np.concatenate([b[2] for b in blocks]), labels)["accuracy"] > 0.9
    assert fitted.epochs == 30 and fitted.steps == 150 and fitted.images == 1200


def test_a_learner_learns_in_bfloat16():
    recipe = {
        "architecture": "cnn",
        "arguments": CNN["arguments"],
        "epochs": 15,
        "batch_size": 8,
        "optimiser": {"name": "adam", "lr": 0.01},
    }
    exact, coarse = (fit(learner(**recipe, precision=precision)) for precision in ("float32", "bfloat16"))
    assert coarse.train_accuracy > 0.8 and not same(exact.model, coarse.model)
    assert all(parameter.dtype == torch.float32 for parameter in coarse.model.parameters())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_same_job_gives_the_same_weights_and_another_seed_gives_others(optimiser):
    entry = learner(**CNN, epochs=3, batch_size=16, optimiser={"name": optimiser, "lr": 0.01})
    first = fit(entry)
    torch.manual_seed(99)  # whatever ran before in this process
    assert same(first.model, fit(entry).model) and not same(first.model, fit(entry, seed=1).model)


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch, optimiser):
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    monkeypatch.setattr(resume, "SHARE", 1e9)
    entry = learner(**CNN, epochs=6, batch_size=16, optimiser={"name": optimiser, "lr": 0.01})
    undisturbed = fit(entry)
    state = tmp_path / "checkpoint.resume"
    order, calls = training.epoch_order, []

    def kill(*arguments):  # in the fifth epoch, counting the one that is laid out before the first step
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return order(*arguments)

    monkeypatch.setattr(training, "epoch_order", kill)
    with pytest.raises(Killed):
        fit(entry, state=state, identity="job")
    said = []
    resumed = fit(entry, state=state, identity="job", log=said.append)
    assert said[0] == "going on after epoch 4 of 6" and resumed.images == 2 * 48
    assert same(undisturbed.model, resumed.model)
    assert (undisturbed.train_loss, undisturbed.train_accuracy) == (resumed.train_loss, resumed.train_accuracy)


def test_a_state_of_another_job_or_a_damaged_one_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    entry = learner(epochs=3)
    undisturbed = fit(entry)
    state = tmp_path / "checkpoint.resume"
    fit(entry, seed=5, state=state, identity="another job")
    assert state.exists()
    said = []
    assert same(undisturbed.model, fit(entry, state=state, identity="job", log=said.append).model)
    assert "belongs to another configuration" in said[0]
    state.write_bytes(state.read_bytes()[:100])
    assert same(undisturbed.model, fit(entry, state=state, identity="job", log=said.append).model)
    assert "cannot be read" in said[2]


def test_a_full_disk_for_the_resume_state_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    (tmp_path / "file").write_text("")
    said = []
    fitted = fit(learner(epochs=2), state=tmp_path / "file/below/a/file", identity="job", log=said.append)
    assert fitted.epochs == 2 and "cannot save the state to resume from" in said[0]


def test_training_stops_at_the_train_accuracy_and_min_steps_raises_the_epochs():
    recipe = {"epochs": 200, "batch_size": 8, "optimiser": {"name": "adam", "lr": 0.01}}
    stopped = fit(learner(**recipe, stop={"train_accuracy": 0.99}))
    assert stopped.epochs < 100 and stopped.train_accuracy >= 0.99
    assert fit(learner(epochs=2, min_steps=31, batch_size=16)).epochs == 11  # three steps an epoch


def test_a_warm_start_begins_with_the_weights_given():
    first = fit(learner(**CNN, epochs=2))
    quiet = learner(**CNN, epochs=1, optimiser={"name": "sgd", "lr": 1e-12})
    state = weights(first.model)
    warm = fit(quiet, start=lambda model: load(model, state, "there"))
    for a, b in zip(warm.model.parameters(), first.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=0)
    with pytest.raises(AllroundError, match="do not fit the learner's architecture"):
        fit(learner(epochs=1), start=lambda model: load(model, state, "there"))


def test_a_loss_that_is_not_a_number_says_what_to_do():
    with pytest.raises(AllroundError, match=r"training loss is (nan|inf) in epoch \d+.*lower the learner's lr"):
        fit(learner(epochs=50, optimiser={"name": "sgd", "lr": 1e4}))


def test_a_single_label_and_a_single_class_can_be_trained_on():
    assert fit(learner(epochs=2), n=1).steps == 2
    assert fit(learner(**CNN, epochs=2), n=2).epochs == 2


def test_progress_says_epoch_loss_accuracy_speed_and_eta(monkeypatch):
    monkeypatch.setattr(training, "REPORT", 0.0)
    said = []
    fit(learner(epochs=2, batch_size=20), log=said.append)
    assert said[0].startswith("epoch 1 of at most 2, step 1 of 2: loss ") and "images/s, ETA " in said[0]
    assert said[-1].startswith("trained 2 epochs, 4 steps: loss ")


def test_the_warm_up_of_a_capture_leaves_no_trace():
    entry = learner(**CNN, epochs=1, batch_size=16, optimiser={"name": "adam", "lr": 0.01})
    torch.manual_seed(0)
    model = build(entry, (8, 8, 1), 4)
    parts = optimisers.groups(model, entry["optimiser"])
    changed = optimisers.tensors(model, parts)
    buffers = steps.allocate(*problem(), (0.4,), (0.25,), entry, CPU)
    buffers.rates.fill_(0.01)
    step = steps.stepper(model, parts, buffers, entry, (8, 8))
    before = [tensor.clone() for tensor in changed]
    with steps.unchanged(changed):
        for _ in range(steps.WARM_UP):
            buffers.at.zero_()
            step()
        assert sum(not torch.equal(a, b) for a, b in zip(before, changed, strict=True)) > len(changed) / 2
    assert all(torch.equal(a, b) for a, b in zip(before, changed, strict=True))
    tracked = {tensor.data_ptr() for tensor in changed}
    assert {parameter.data_ptr() for parameter in model.parameters()} <= tracked
    assert {tensor.data_ptr() for part in parts for tensors in part.state.values() for tensor in tensors} <= tracked


def test_the_training_step_never_asks_the_device_for_a_value():
    """On a GPU every such question is a stall, and ends a capture."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        asked = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            self.asked += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return function(*arguments, **(options or {}))

    for optimiser in ("sgd", "adam", "adamw"):
        entry = learner(**CNN, epochs=1, batch_size=16, optimiser={"name": optimiser}, label_smoothing=0.1)
        model = build(entry, (8, 8, 1), 4)
        parts = optimisers.groups(model, entry["optimiser"])
        buffers = steps.allocate(*problem(), (0.4,), (0.25,), entry, CPU)
        with Watch() as watch:
            steps.stepper(model, parts, buffers, entry, (8, 8))()
            assert watch.asked == 0
            buffers.loss.item()
            assert watch.asked == 1


@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_on_a_gpu_the_captured_step_trains_like_the_eager_one(optimiser):
    from allround.device import choose

    entry = learner(**CNN, epochs=3, batch_size=16, optimiser={"name": optimiser, "lr": 0.01}, precision="float32")
    images, labels = problem()
    said, device = [], choose("cuda")
    common = {"classes": 4, "mean": (0.4,), "std": (0.25,), "device": device, "log": said.append}

    def run(graphs):
        return training.fit(images, labels, entry, seeds=np.random.SeedSequence(0), graphs=graphs, **common)

    captured, again, eager = run(True), run(True), run(False)
    assert not [line for line in said if "cannot be captured" in line]
    assert same(captured.model, again.model)
    assert captured.train_loss == pytest.approx(eager.train_loss, rel=1e-2)
    for a, b in zip(weights(captured.model).values(), weights(eager.model).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)


# --- inference and scores ---------------------------------------------------------------------------------------------


def test_outputs_in_blocks_equal_the_direct_forward_pass_with_batch_norm_in_evaluation_mode(monkeypatch):
    from allround.learners import inference

    monkeypatch.setitem(inference.PIXELS, "cpu", 7 * 64)  # blocks of seven images
    model = fit(learner(**CNN, epochs=2)).model.train()  # whatever mode it comes in
    before = weights(model)
    images, _ = problem(40, seed=3)
    blocks = list(outputs(model, images, mean=(0.4,), std=(0.25,), device=CPU))
    assert [start for start, _, _ in blocks] == [0, 7, 14, 21, 28, 35] and len(blocks[-1][1]) == 5
    direct = torch.from_numpy((images.astype(np.float32) / 255 - 0.4) / 0.25).permute(0, 3, 1, 2)
    with torch.no_grad():
        features, logits = model.eval().outputs(direct)
    np.testing.assert_allclose(np.concatenate([b[1] for b in blocks]), features.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.concatenate([b[2] for b in blocks]), logits.numpy(), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), weights(model).values(), strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", ["features", "logits"])
def test_outputs_that_are_not_finite_are_refused(part, bad):
    class Broken(nn.Module):
        def outputs(self, images):
            parts = {"features": torch.ones(len(images), 3), "logits": torch.ones(len(images), 2)}
            parts[part][1, 1] = bad
            return parts["features"], parts["logits"]

    with pytest.raises(AllroundError, match="outputs for images 0 to 39 are not finite"):
        list(outputs(Broken(), problem()[0], mean=(0.4,), std=(0.25,), device=CPU))


def test_a_checkpoint_rebuilds_the_model(tmp_path):
    model = fit(learner(**CNN, epochs=2)).model

    class Data:  # what pack reads of a dataset
        classes, mean, std = ["a", "b", "c", "d"], (0.4,), (0.25,)

        class train:
            images = problem()[0]

    torch.save(pack(model, learner(**CNN), Data), tmp_path / "model.pt")
    again = unpack(torch.load(tmp_path / "model.pt", weights_only=True), "model.pt")
    assert same(model, again) and not again.training


def test_metrics_equal_their_definitions():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 5)).astype(np.float32) * 3, rng.integers(0, 4, 200)
    scores = evaluate(logits, labels)
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    hit, confidence = p.argmax(1) == labels, p.max(1)
    ece = 0.0
    for k in range(BINS):
        inside = (confidence > k / BINS) & (confidence <= (k + 1) / BINS)
        if inside.any():
            ece += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert scores["accuracy"] == hit.mean() and scores["n_test"] == 200
    assert scores["nll"] == pytest.approx(-np.log(p[np.arange(200), labels]).mean(), rel=1e-12)
    assert scores["ece"] == pytest.approx(ece, rel=1e-9)
    per_class = [hit[labels == c].mean() for c in range(4)]
    assert scores["per_class_accuracy"][:4] == pytest.approx(per_class) and scores["per_class_accuracy"][4] is None


def test_metrics_survive_extreme_logits():
    scores = evaluate(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), np.array([0, 0]))
    assert scores["accuracy"] == 0.5 and scores["nll"] == 1e4 and scores["ece"] == 0.5
