"""What a user would lose: hours of GPU time to a comment, or trust in results that code no longer makes."""

from __future__ import annotations

import importlib
import sys

import pytest

from allround import identity

CODE = {
    "__init__": "",
    "stages/__init__": "",
    "stages/cook": '''
"""Docs."""
from allround.shared import helper, unused
from allround import tools

LIMIT = 3

def cook(x):
    """Doc."""
    return helper(x) + tools.sharpen(x) + LIMIT

if __name__ == "__main__":
    print(cook(1))
''',
    "kernels/__init__": "from allround.kernels.exported import exported\n",
    "kernels/exported": "def exported(x):\n    return x * 5\n",
    "kernels/inner": "def deep(x):\n    return x + 1\n\n\ndef deeper(x):\n    return x\n",
    "kernels/lookup": 'TABLE = {"one": 1}\n',
    "shared": """
import statistics as numbers
from math import cos as wave

FACTOR = 2

def helper(x):
    # a comment
    if x is None:
        raise ValueError("no x")
    return wave(x) * FACTOR + numbers.fsum([x])

def unused(x):
    return x

def nobody_calls(x):
    return unused(x)
""",
    "tools": """
from allround import kernels
from allround.kernels import exported as alias, lookup

def sharpen(x):
    return inner(x) + further(x) + alias(x) + getattr(lookup, "TABLE")["one"]

def further(x):
    return kernels.inner.deep(x)

def inner(x):
    return -x

def blunt(x):
    return x
""",
}


def forget():
    """The code is read anew."""
    for function in vars(identity).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of allround: a function that edits it and gives the fingerprint of stages.cook."""
    for name, text in CODE.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(identity, "ROOT", tmp_path)

    def edit(file="stages/cook", old="", new=""):
        path = tmp_path / f"{file}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        forget()
        return identity.fingerprint("allround.stages.cook")

    yield edit
    forget()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("shared", "# a comment", "# another comment\n\n"),
        ("shared", '"no x"', '"x is missing; give one"'),
        ("stages/cook", '"""Doc."""', '"""Better doc."""'),
        ("stages/cook", '"""Docs."""', ""),
        ("stages/cook", "helper(x) + tools", "helper( x )+tools"),
        ("stages/cook", "print(cook(1))", "print(cook(2))"),
        ("shared", "return unused(x)", "return 5"),
        ("tools", "def blunt(x):\n    return x", ""),
        ("stages/cook", "return helper(x)", "return (helper(x))"),
    ],
)
def test_edits_that_change_no_result_rerun_nothing(package, file, old, new):
    assert package() == package(file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("shared", "if x is None:", "if x:"),
        ("shared", "raise ValueError", "raise KeyError"),
        ("shared", "from math import cos as wave", "from math import sin as wave"),
        ("shared", "import statistics as numbers", "import math as numbers"),
        ("tools", "return kernels.inner.deep(x)", "return kernels.inner.deeper(x)"),
        ("kernels/inner", "return x + 1", "return x + 2"),
        ("kernels/lookup", '"one": 1', '"one": 2'),
        ("kernels/exported", "return x * 5", "return x * 6"),
        ("kernels/__init__", "", "print('effect')\n"),
        ("shared", "wave(x) * FACTOR", "wave(x) - FACTOR"),
        ("shared", "FACTOR = 2", "FACTOR = 3"),
        ("stages/cook", "LIMIT = 3", "LIMIT = 4"),
        ("tools", "return -x", "return +x"),
        ("shared", "FACTOR = 2", "FACTOR = 2\nprint('effect')"),
        ("shared", "FACTOR = 2", "FACTOR = None"),
        ("stages/cook", "def cook(x)", "def cook(x=1)"),
    ],
)
def test_edits_that_can_change_a_result_are_never_missed(package, file, old, new):
    assert package() != package(file, old, new)


def test_modules_that_no_result_depends_on_do_not_count(package, monkeypatch):
    monkeypatch.setattr(identity, "PLUMBING", {"allround.tools"})
    forget()
    before = package()
    assert before == package("tools", "return -x", "return +x")
    assert before != package("shared", "FACTOR = 2", "FACTOR = 3")


def test_modules_that_no_result_depends_on_exist():
    assert all(identity._source(module) for module in identity.PLUMBING)


def test_relative_imports_are_refused_because_they_would_be_missed(package):
    with pytest.raises(ValueError, match="absolute imports"):
        package("stages/cook", "from allround import tools", "from .. import tools")


def test_every_stage_has_a_fingerprint_and_none_is_shared():
    stages = sorted(path.stem for path in (identity.ROOT / "stages").glob("[a-z]*.py"))
    prints = [identity.fingerprint(f"allround.stages.{name}") for name in stages]
    assert len(set(prints)) == len(stages) >= 6


def test_an_edit_of_the_report_does_not_touch_the_training(monkeypatch):
    """Nothing that train reaches lies in evaluation/."""
    reached = set()
    original = identity._definitions

    def spy(module):
        reached.add(module)
        return original(module)

    forget()
    monkeypatch.setattr(identity, "_definitions", spy)
    identity.fingerprint("allround.stages.train")
    assert "allround.learners.training" in reached or any(name.startswith("allround.learners") for name in reached)
    assert not any(name.startswith(("allround.evaluation", "allround.strategies")) for name in reached)


def test_an_identity_is_plain_canonical_json():
    assert identity.canonical({"b": 1, "a": [True, None, 0.1]}) == '{"a":[true,null,0.1],"b":1}'
    with pytest.raises(ValueError):
        identity.canonical(float("nan"))


@pytest.mark.parametrize("module", ["study", "plan", "job", "stages.label", "stages.seed_set", "stages.collect"])
def test_planning_and_small_stages_start_without_torch(module):
    """import torch costs two seconds a process; thousands of small jobs must not pay it."""
    import subprocess

    code = f"import allround.{module}, sys; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec(f"allround.{module}")
