"""What a user would lose: a night on a cluster whose nodes cannot reach what the first job wants to download."""

from __future__ import annotations

import sys

import pytest

from allround import fetch
from allround.errors import AllroundError
from allround.learners import model

PRETRAINED = """
pretrained: {architecture: "timm:resnet10t", arguments: {pretrained: true}, optimiser: {name: sgd, lr: 0.01}, epochs: 1}
"""


@pytest.fixture
def pretrained(workspace, monkeypatch):
    monkeypatch.chdir(workspace.root)
    catalogue = workspace.root / "config/catalogue/learners.yaml"
    catalogue.write_text(catalogue.read_text() + PRETRAINED)
    study = (workspace.root / "config/studies/tiny.yaml").read_text()
    workspace.study("far", study.replace("[tiny]", "[tiny, pretrained]"))


def test_pretrained_weights_are_fetched_as_the_training_would_and_nothing_else_is(pretrained, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(model, "build", lambda *arguments, **named: fetched.append((arguments, named)))
    fetch.fetch("far")
    ((settings, shape, classes), named) = fetched[0]
    assert (settings["architecture"], shape, classes, named, len(fetched)) == ("timm:resnet10t", (8, 8, 1), 10, {}, 1)
    assert capsys.readouterr().out == "the weights of learner 'pretrained' are here\n"


def test_a_standard_dataset_is_fetched_once_for_all_its_variants(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy.root)
    study = (copy.root / "config/studies/tiny.yaml").read_text()
    copy.study("far", study.replace("[digits]", "[digits, cifar10, cifar10_redundant2]"))
    loaded = []
    monkeypatch.setattr(fetch.datasets, "load", lambda *arguments: loaded.append(arguments))
    fetch.fetch("far")
    assert [(source, options["name"]) for source, _, options in loaded] == [("torchvision", "CIFAR10")]
    assert capsys.readouterr().out == "CIFAR10 is here\n"


def test_what_cannot_be_fetched_is_one_line(pretrained, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(AllroundError, match="weights of timm:resnet10t could not be fetched"):
        fetch.fetch("far")
    monkeypatch.setattr(sys, "argv", ["fetch", "near"])
    with pytest.raises(SystemExit, match=r"allround fetch: config key 'study': unknown study 'near'"):
        fetch.main()
