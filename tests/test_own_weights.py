"""Starting from weights of one's own: what a user would lose is weeks of pretraining that silently were not used."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from allround import learners
from allround.errors import AllroundError
from allround.learners import own_weights
from allround.learners.model import build

CLASSES = [str(digit) for digit in range(5)]


def learner(file, architecture="torchvision:resnet18", arguments=None, **initialisation):
    entry = {"architecture": architecture, "arguments": arguments or {}}
    return learners.settings({**entry, "initialisation": {"checkpoint": str(file), **initialisation}}, "here")


def drawn(architecture="torchvision:resnet18", shape=(32, 32, 3), seed=1, classes=5, **arguments):
    torch.manual_seed(seed)
    entry = learners.settings({"architecture": architecture, "arguments": arguments}, "here")
    return build(entry, shape, classes)


def started(entry, file, model, said=lambda line: None):
    own_weights.starter(file, entry["initialisation"], CLASSES, said)(model)
    return model


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def published():
    """A network as its library names it, of other classes than ours, that has seen a batch."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18(num_classes=1000)
    network(torch.randn(4, 3, 32, 32))
    return network


FORMS = {
    "as it is": lambda state: state,
    "with an optimiser": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: torch.ones(3)}}},
    "of several GPUs": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    "of an encoder": lambda state: {f"encoder.{name}": t for name, t in state.items() if not name.startswith("fc.")},
    "of torch 1.5": lambda state: {"state_dict": state},
    "in 16 bits": lambda state: {name: tensor.half() for name, tensor in state.items()},
    "without counts": lambda state: {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_body_takes_the_files_weights_under_the_names_that_people_save_them_by(tmp_path, published, form, channels):
    file = tmp_path / "weights.pt"
    torch.save(FORMS[form](published.state_dict()), file, _use_new_zipfile_serialization=form != "of torch 1.5")
    model, other = (drawn(shape=(32, 32, channels)) for _ in range(2))
    started(learner(file), file, model)
    network = model.body[1] if channels == 1 else model.body
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, published.state_dict()[name], atol=2e-3 if "16" in form else 0, rtol=0)
    assert equal(model.head, other.head)  # drawn as from scratch


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("mlp", (8, 8, 1)), ("cnn", (28, 28, 1)), ("resnet18", (32, 32, 3)), ("airbench", (32, 32, 3)),
     ("torchvision:resnet18", (32, 32, 1)), ("torchvision:densenet121", (32, 32, 3)), ("timm:resnet10t", (32, 32, 3))],
)  # fmt: skip
def test_a_checkpoint_of_allround_gives_its_head_too_where_the_classes_are_the_same(tmp_path, architecture, shape):
    file, said = tmp_path / "checkpoint.pt", []
    saved = drawn(architecture, shape, seed=0)
    for classes in (CLASSES, CLASSES[::-1]):
        torch.save({"kind": "checkpoint", "classes": classes, "weights": saved.state_dict()}, file)
        model, other = (drawn(architecture, shape) for _ in range(2))
        started(learner(file, architecture), file, model, said.append)
        assert equal(model.body, saved.body)
        assert equal(model.head, saved.head if classes == CLASSES else other.head)
    assert "the head is its own" in said[0] and "the head is new" in said[1] and str(file) in said[0]


def test_one_of_several_networks_in_a_file_is_chosen_by_prefix(tmp_path, published):
    file = tmp_path / "moco.pt"
    other = {name: tensor + 1 for name, tensor in published.state_dict().items()}
    torch.save({"state_dict": {"module.query": published.state_dict(), "module.key": other}}, file)
    with pytest.raises(AllroundError, match=r"choose one with prefix, of: .*'state_dict\.module\.query\.'"):
        started(learner(file), file, drawn())
    for prefix in ("key", "key.", "module.key", "state_dict.module.key."):
        model = started(learner(file, prefix=prefix), file, drawn())
        assert torch.equal(model.body.conv1.weight, other["conv1.weight"])
    torch.save({"model": published.state_dict(), "average": {"model": other}}, file)
    assert torch.equal(started(learner(file, prefix="model"), file, drawn()).body.conv1.weight, published.conv1.weight)
    for prefix in ("kye", "ey"):
        with pytest.raises(AllroundError, match=rf"nothing called {prefix}\.conv1\.weight"):
            started(learner(file, prefix=prefix), file, drawn())
    torch.save({**published.state_dict(), "average": other}, file)
    assert torch.equal(started(learner(file, prefix=""), file, drawn()).body.conv1.weight, published.conv1.weight)


def test_what_does_not_fit_is_one_clear_line_that_names_the_first_fault(tmp_path, published):
    file = tmp_path / "weights.pt"

    def fails(says, content, **changes):
        torch.save(content, file)
        model = drawn(**changes)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(AllroundError, match=says) as error:
            started(learner(file, **changes), file, model)
        assert "\n" not in str(error.value) and str(file) in str(error.value)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    state = published.state_dict()
    without = {name: tensor for name, tensor in state.items() if name != "layer2.0.bn1.bias"}
    stem = r"conv1.weight is \(64, 3, 7, 7\) in the file and \(64, 3, 3, 3\) in the learner"
    fails(stem, state, architecture="resnet18")
    fails("1 of 100 tensors are missing, the first is layer2.0.bn1.bias", without)
    fails(r"it has fc1\.weight, and nothing called \*\.conv1\.weight", {"fc1.weight": torch.ones(2)})
    fails("it has no tensor", {"epoch": 3})
    fails(r"not a file of tensors alone .*torch\.save\(model\.state_dict", {"weights": nn.Linear(1, 1)})
    fails("bn1.weight holds numbers that are not finite", {**state, "bn1.weight": state["bn1.weight"] / 0})
    file.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(AllroundError, match="not a file of tensors alone"):
        started(learner(file), file, drawn())


def test_a_larger_network_is_refused_and_not_used_in_part(tmp_path):
    from torchvision.models import resnet34

    file = tmp_path / "weights.pt"
    torch.save(resnet34().state_dict(), file)
    with pytest.raises(AllroundError, match=r"larger network than the learner's, with layer1\.2\.conv1\.weight and 9"):
        started(learner(file), file, drawn())
    torch.save({"classes": CLASSES, "weights": drawn("mlp", (8, 8, 1), layers=2, width=16).state_dict()}, file)
    entry = learner(file, "mlp", {"width": 16})
    with pytest.raises(AllroundError, match=r"larger network .*with weights\.body\.2\.0\.weight and 1"):
        started(entry, file, drawn("mlp", (8, 8, 1), width=16))


def test_the_old_head_of_another_network_may_lie_among_the_bodys_modules(tmp_path):
    """torchvision's mobilenet_v3 ends in classifier.3, and classifier.0 is a part of the body."""
    from torchvision.models import mobilenet_v3_small

    file = tmp_path / "weights.pt"
    torch.save({"model": mobilenet_v3_small().state_dict()}, file)
    entry = learner(file, "torchvision:mobilenet_v3_small", prefix="model")
    assert "classifier.0.weight" in started(entry, file, drawn("torchvision:mobilenet_v3_small")).body.state_dict()


def test_a_mistake_in_the_entry_is_one_line_before_any_job(tmp_path):
    def fails(says, **entry):
        with pytest.raises(AllroundError, match=says) as error:
            learners.settings({"architecture": "mlp", **entry}, "here")
        assert "\n" not in str(error.value) and str(error.value).startswith("here")

    file = tmp_path / "weights.pt"
    fails(r"cannot read the checkpoint .*weights\.pt \(No such file", initialisation={"checkpoint": str(file)})
    fails("cannot read the checkpoint .*Is a directory", initialisation={"checkpoint": str(tmp_path)})
    file.write_bytes(b"weights")
    fails(
        "unknown key of initialisation 'prefx'. Did you mean 'prefix'", initialisation={"checkpoint": "x", "prefx": ""}
    )
    fails("needs the path of a file", initialisation={"prefix": "model"})
    fails("prefix is 3; allowed", initialisation={"checkpoint": str(file), "prefix": 3})
    fails("unknown initialisation 'warn'. Did you mean 'warm'.*{checkpoint: <file>}", initialisation="warn")
    pretrained = {"architecture": "timm:resnet10t", "arguments": {"pretrained": True}}
    fails(
        "from its own checkpoint and from pretrained; leave one", initialisation={"checkpoint": str(file)}, **pretrained
    )


def test_a_file_that_changes_after_planning_is_refused(tmp_path, published):
    file = tmp_path / "weights.pt"
    torch.save(published.state_dict(), file)
    entry = learner(file)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AllroundError, match="has changed since the run was planned"):
        started(entry, file, drawn())


STUDY = """
datasets: [digits]
learners: [pretrained]
strategies: [random, margin]
start: {size: 20, by: random}
budget: 5
rounds: 2
seeds: 1
"""


def own_study(workspace, file):
    """A study whose learner starts from a file."""
    catalogue = workspace.root / "config/catalogue/learners.yaml"
    entry = {"architecture": "mlp", "arguments": {"width": 16}, "epochs": 1, "batch_size": 5}
    entry |= {"optimiser": {"name": "sgd", "lr": 1e-12}, "initialisation": {"checkpoint": file}}
    catalogue.write_text(f"{catalogue.read_text()}pretrained: {json.dumps(entry)}\n")
    workspace.study("own", STUDY)
    workspace.keep("[checkpoints]")


def test_a_study_starts_every_round_from_the_file_and_follows_what_it_says_not_where_it_lies(workspace):
    file = workspace.root / "{pre} trained.pt"

    def pretrain(bias):
        layer = nn.Linear(64, 16)
        nn.init.constant_(layer.bias, bias)
        torch.save({"net": {f"1.0.{name}": tensor for name, tensor in layer.state_dict().items()}}, file)

    pretrain(0.25)
    os.utime(file, (2e9, 2e9))  # of 2033
    own_study(workspace, file.name)
    workspace.snakemake(study="own")
    checkpoints = sorted((workspace.root / "results/digits/pretrained").rglob("checkpoint.pt"))
    assert len(checkpoints) == 3
    for path in checkpoints:
        weights = torch.load(path, weights_only=True)["weights"]
        np.testing.assert_allclose(weights["body.1.0.bias"], 0.25, atol=1e-6)
        assert f"starts from {file.name}, net.*: 2 tensors" in (path.parent / "log/train.log").read_text()
    assert file.stat().st_mtime == 2e9
    assert workspace.planned(study="own") == {}

    for path in checkpoints:
        path.unlink()
    workspace.edit("config/studies/own.yaml", "rounds: 2", "rounds: 3")
    assert workspace.planned(study="own")["train_again"] == 1  # margin's, whose embedding the next query needs

    shutil.move(file, workspace.root / "moved.pt")
    assert f"cannot read the checkpoint {file.name}" in workspace.snakemake("-n", study="own", ok=False)
    workspace.edit("config/catalogue/learners.yaml", file.name, "moved.pt")
    workspace.snakemake(study="own")
    assert workspace.planned(study="own") == {}
    pretrain(0.5)
    shutil.move(file, workspace.root / "moved.pt")
    assert workspace.planned(study="own")["train"] == 5
    workspace.snakemake("--touch", study="own")
    assert workspace.planned(study="own") == {}


def test_a_checkpoint_among_the_results_may_be_the_file_and_outlives_the_run(workspace):
    """Snakemake would delete it after use, or make it anew, if it were an input of the training."""
    workspace.snakemake("results/digits/tiny/random20/start/seed0/round000/metrics.json")
    file = "results/digits/tiny/random20/start/seed0/round000/checkpoint.pt"
    shutil.copy(workspace.root / file, workspace.root / "copy.pt")
    own_study(workspace, file)
    workspace.keep("[]")
    workspace.study("own", STUDY.replace("[pretrained]", "[pretrained, tiny]"))
    shutil.move(workspace.root / "copy.pt", workspace.root / file)
    workspace.snakemake(
        "--cores", "1", "results/digits/pretrained/random20/start/seed0/round000/metrics.json", study="own"
    )
    log = workspace.root / "results/digits/pretrained/random20/start/seed0/round000/log/train.log"
    assert "weights.body.*: 2 tensors; the head is its own" in log.read_text()
    assert (workspace.root / file).exists()


def test_a_training_names_no_path_in_its_identity(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    entry = learner(file, "mlp")
    assert learners.checkpoint(entry) == str(file)
    assert learners.checkpoint(learners.settings({"architecture": "mlp"}, "here")) is None
    assert str(tmp_path) not in str(learners.identity(entry))
    assert learners.identity(entry)["initialisation"] == {"prefix": None, "sha256": entry["initialisation"]["sha256"]}
