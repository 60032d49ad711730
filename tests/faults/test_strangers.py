"""What a user would lose to a stranger's file, or to a name in a configuration: everything else on the disk."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from test_artifacts import CELL, IDENTITY, KINDS, write_dataset, write_view

from allround import artifacts, datasets, study
from allround.errors import AllroundError
from allround.identity import canonical
from allround.learners.model import unpack
from allround.learners.resume import Keeper

REPOSITORY = Path(__file__).parents[2]


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self):
        return (os.mkdir, (str(self.sprung),))


def refused(act, *words: str) -> str:
    with pytest.raises(AllroundError) as error:
        act()
    line = str(error.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
    return line


# --- code in files ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_or_a_resume_state_with_a_pickle_in_it_executes_nothing(tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "checkpoint.pt"
    for content in ({"kind": "checkpoint", "trap": Trap(sprung)}, Trap(sprung)):
        for new in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=new)
            refused(lambda: artifacts.read_checkpoint(path), str(path), "not a whole checkpoint", "delete it")
        path.write_bytes(pickle.dumps(content))
        refused(lambda: artifacts.read_checkpoint(path), str(path))
        said: list[str] = []
        assert Keeper(path, "me", said.append).restore([torch.zeros(2)]) == 0
        assert "cannot be read" in said[0]
    assert not sprung.exists()


@pytest.mark.parametrize(
    "architecture", ["../../evil", "os", "evil.py", "allround.job", "timm:hf-hub:stranger/model", "timm:local-dir:/tmp"]
)
def test_a_checkpoint_names_no_architecture_but_those_there_are(architecture, tmp_path):
    payload = {"learner": {"architecture": architecture, "arguments": {}}, "shape": [8, 8, 1], "classes": ["a", "b"]}
    artifacts.write_checkpoint(tmp_path / "c.pt", payload | {"weights": {}}, identity=IDENTITY, digest="d")
    refused(lambda: unpack(artifacts.read_checkpoint(tmp_path / "c.pt"), tmp_path / "c.pt"))


def test_a_checkpoint_of_nonsense_is_one_line(tmp_path):
    path = tmp_path / "c.pt"
    for payload in ({"identity": 3}, {"identity": "[]"}, {"identity": "{}"}, {"identity": IDENTITY}, {}):
        torch.save({"kind": "checkpoint", **payload}, path)
        refused(lambda: unpack(artifacts.read_checkpoint(path), path), str(path))


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def npy(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def test_an_npz_with_a_pickle_in_it_executes_nothing(tmp_path):
    sprung = tmp_path / "sprung"
    trap = npy(np.array([Trap(sprung)] * 4, dtype=object), allow_pickle=True)
    whole = {f"{axis}_{part}": npy(value) for part in ("train", "test") for axis, value in plain().items()}
    for name in whole:
        archive(tmp_path / "x.npz", **whole | {name: trap})
        refused(lambda: datasets.load("npz", tmp_path, {"file": "x.npz"}), "x.npz", "Python objects")
    assert not sprung.exists()


def plain(n: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.zeros((n, 4, 4), np.uint8), "y": np.arange(n) % 2}


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_an_npz_that_claims_terabytes_is_one_line_and_takes_no_memory(name, tmp_path):
    whole = {f"{axis}_{part}": npy(value) for part in ("train", "test") for axis, value in plain().items()}
    shape = (10**12, 4, 4) if name == "x_train" else (10**12,)
    head = io.BytesIO()
    dtype = "|u1" if name == "x_train" else "<i8"
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    archive(tmp_path / "x.npz", **whole | {name: head.getvalue() + bytes(64)})
    refused(lambda: datasets.load("npz", tmp_path, {"file": "x.npz"}), "x.npz")


def test_an_image_that_is_a_bomb_is_one_line(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
    size = 30000
    rows = zlib.compress(bytes(1000), 9)
    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    for place in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (tmp_path / f"pets/{place}.png").write_bytes(png)
    options = {"folder": "pets", "mode": "grey", "size": 8}

    def convert():
        source = datasets.load("folder", tmp_path, options)
        np.asarray(source.train.images[0:1])

    refused(convert, "pets/", "damaged image", "exceeds limit")


YAML_TRAPS = [
    "!!python/object/apply:os.mkdir ['{sprung}']",
    "!!python/object/new:os.mkdir ['{sprung}']",
    "!!python/name:os.mkdir",
    "!!python/module:os",
]


@pytest.mark.parametrize("trap", YAML_TRAPS)
@pytest.mark.parametrize("file", ["config/studies/mine.yaml", "config/catalogue/learners.yaml"])
def test_a_yaml_file_executes_nothing(trap, file, site, tmp_path):
    text = (site / file).read_text() if (site / file).exists() else STUDY
    (site / file).write_text(text + f"\nextra: {trap.format(sprung=tmp_path / 'sprung')}\n")
    refused(lambda: load(site), file, "not valid YAML")
    assert not (tmp_path / "sprung").exists()


# --- HDF5 that reaches elsewhere --------------------------------------------------------------------------------------


def external_link(file: h5py.File, name: str, other: Path) -> None:
    file[name] = h5py.ExternalLink(str(other), name)


def soft_link(file: h5py.File, name: str, other: Path) -> None:
    file[name] = h5py.SoftLink("/train/origin")


def virtual(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as source:
        shape, dtype = source[name].shape, source[name].dtype
    layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
    layout[...] = h5py.VirtualSource(str(other), name, shape=shape)
    file.create_virtual_dataset(name, layout)


def raw_file(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as source:
        shape, dtype = source[name].shape, source[name].dtype
    file.create_dataset(name, shape=shape, dtype=dtype, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def reference(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as source:
        shape = source[name].shape
    file.create_dataset(name, shape=shape, dtype=h5py.ref_dtype)


@pytest.mark.parametrize("elsewhere", [external_link, soft_link, virtual, raw_file, reference])
@pytest.mark.parametrize("part", ["train/images", "train/labels", "test", "logits", "sums"])
def test_an_hdf5_file_from_a_stranger_brings_all_that_it_holds(elsewhere, part, tmp_path):
    write, read = (write_view, artifacts.open_view) if part == "logits" else (write_dataset, artifacts.read_dataset)
    if part in ("test", "sums") and elsewhere not in (external_link, soft_link):
        pytest.skip("a group can only be linked")
    write(tmp_path / "own.h5")
    write(tmp_path / "other.h5")
    with h5py.File(tmp_path / "own.h5", "r+") as file:
        del file[part]
        elsewhere(file, part, tmp_path / "other.h5")
    refused(lambda: read(tmp_path / "own.h5"), "own.h5", "damaged", "delete it")


def test_a_table_of_nonsense_under_a_right_digest_is_one_line(tmp_path):
    """Whoever can write a file can write its digest as well."""
    for row in ("a,b,c", "1", f"{10**30},1,1", f"{'9' * 5000},1,1", "x" * 200_000):
        body = f"index,label,round\n{row}\n"
        head = {"kind": "labels", "dataset": "d", "identity": json.loads(IDENTITY)}
        sha = artifacts._sha(canonical(head) + body)
        (tmp_path / "labels.csv").write_text(f"# {canonical(head | {'sha256': sha})}\n{body}")
        refused(lambda: artifacts.read_labels(tmp_path / "labels.csv"), "labels.csv")
    for text in ("[" * 100_000, '{"a":' * 100_000, "\x00", "null", '"x"', "{}"):
        (tmp_path / "metrics.json").write_text(text)
        refused(lambda: artifacts.read_metrics(tmp_path / "metrics.json"), "metrics.json")


@pytest.mark.parametrize("identity", ["3", "[]", '{"cell":3}', '{"cell":[]}', "nonsense", "{}"])
@pytest.mark.parametrize("kind", ["labels.csv", "query.csv", "metrics.json"])
def test_an_artifact_with_a_strange_identity_is_one_line(kind, identity, tmp_path):
    path = tmp_path / kind
    value = json.loads(identity) if identity != "nonsense" else "nonsense"
    if kind == "metrics.json":
        artifacts.write_json(path, {"kind": "metrics", "accuracy": 1, "n_labels": 1, "identity": value})
    else:
        head, body = {"kind": kind.removesuffix(".csv"), "dataset": "d", "identity": value}, "a,b,c\n"
        sha = artifacts._sha(canonical(head) + body)
        path.write_text(f"# {canonical(head | {'sha256': sha})}\n{body}")
    refused(lambda: KINDS[kind][1](path, expect=CELL), kind)


# --- paths and names --------------------------------------------------------------------------------------------------

STUDY = """
datasets: [digits]
learners: [mlp]
strategies: [random]
start: {size: 20, by: random}
budget: 5
rounds: 2
seeds: 1
"""
SITE = {"study": "mine", "data": "data", "device": "cpu", "threads": 1, "memory_gb": 8, "keep": [], "jobs_per_gpu": 1}


@pytest.fixture
def site(tmp_path) -> Path:
    """config/ and workflow/ with a study of one's own."""
    for name in ("config", "workflow"):
        shutil.copytree(REPOSITORY / name, tmp_path / "site" / name)
    (tmp_path / "site/config/studies/mine.yaml").write_text(STUDY)
    return tmp_path / "site"


def load(site: Path, **changes):
    return study.load({**SITE, **changes}, site)


NAMES = [
    "..",
    "../x",
    "a/../../x",
    "/etc/x",
    "a/b",
    ".hidden",
    "-rf",
    "~root",
    "$HOME",
    "`id`",
    "a b",
    "a\nb",
    "a\n",
    "a\x00b",
    "{seed}",
    "é",
    "a*",
    "x" * 101,
    "",
]


@pytest.mark.parametrize("kind", ["datasets", "learners", "strategies"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_in_a_study_leads_out_of_results(name, kind, site):
    entries = {
        "datasets": {"source": "digits"},
        "learners": {"architecture": "mlp"},
        "strategies": {"strategy": "margin"},
    }
    catalogue = site / f"config/catalogue/{kind}.yaml"
    catalogue.write_text(yaml.safe_dump(yaml.safe_load(catalogue.read_text()) | {name: entries[kind]}))
    whole = yaml.safe_load(STUDY) | {kind: [name]}
    (site / "config/studies/mine.yaml").write_text(yaml.safe_dump(whole))
    refused(lambda: load(site), "mine.yaml")


@pytest.mark.parametrize("name", ["datasets", "studies"])
def test_a_dataset_does_not_take_a_folder_that_is_taken(name, site):
    catalogue = site / "config/catalogue/datasets.yaml"
    catalogue.write_text(yaml.safe_dump(yaml.safe_load(catalogue.read_text()) | {name: {"source": "digits"}}))
    (site / "config/studies/mine.yaml").write_text(STUDY.replace("[digits]", f"[{name}]"))
    refused(lambda: load(site), name, "results/")


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name and name], ids=ascii)
def test_no_study_leads_out_of_results(name, site, tmp_path):
    refused(lambda: load(site, study=name))
    for given in (f"{name}.yaml", f"../{name}.yaml", f"{tmp_path}/{name}.yaml"):
        if "\x00" not in name:
            (tmp_path / f"{name}.yaml").write_text(STUDY)
        refused(lambda given=given: load(site, study=given))


def test_a_study_by_path_writes_under_its_file_name_alone(site, tmp_path, monkeypatch):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "x.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path / "deep/er")
    assert load(site, study="../../x.yaml").name == "x"
    (tmp_path / "..yaml").write_text(STUDY)
    refused(lambda: load(site, study="../../..yaml"), "allowed: letters")


@pytest.mark.parametrize(
    "change",
    [
        {"start": {"size": 20, "by": "../../x"}},
        {"seeds": ["../x"]},
        {"seeds": [-1]},
        {"seeds": [10**300]},
        {"budget": 10**300},
        {"budget": "../5"},
        {"start": {"size": 10**300, "by": "random"}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_no_number_in_a_study_leads_out_of_results(change, site):
    (site / "config/studies/mine.yaml").write_text(yaml.safe_dump(yaml.safe_load(STUDY) | change))
    refused(lambda: load(site), "mine.yaml")


TRAIN = ["dataset", "labels", "checkpoint", "metrics"]


@pytest.mark.parametrize(
    ("stage", "settings", "files"),
    [
        ("query", {"strategy": "../../evil", "budget": 1, "hyperparameters": {}}, ["dataset", "labels", "query"]),
        ("query", {"strategy": "os", "budget": 1, "hyperparameters": {}}, ["dataset", "labels", "query"]),
        ("embed", {"view": "../evil"}, ["dataset", "checkpoint", "view"]),
        ("dataset", {"source": "../../evil", "options": {}}, ["data", "dataset"]),
        ("train", {"architecture": "../../evil", "initialisation": "scratch"}, TRAIN),
    ],
)
def test_an_identity_by_hand_imports_nothing_from_elsewhere(stage, settings, files, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    identity = canonical({"stage": stage, "cell": {**CELL, "dataset": "shapes"}, "settings": settings, "inputs": {}})
    write_dataset(tmp_path / "dataset")
    KINDS["labels.csv"][0](tmp_path / "labels")
    command = [sys.executable, "-m", f"allround.stages.{stage}", "--identity", identity, "--device", "cpu"]
    command += [f"--{name}={tmp_path / name}" for name in files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(tmp_path)])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"allround {stage}: ") and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "sprung").exists()
