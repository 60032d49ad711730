"""What a user would lose to a bit that flips on a disk: a result that is wrong, and nobody the wiser.

Every flip is noticed and refused in one line that names the file and what to do, or changes nothing that is read.
ALLROUND_FLIPS: flips of every kind of file (default 300; 0: all there are, which takes some minutes).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_artifacts import CELL, IDENTITY, KINDS

from allround import artifacts
from allround.errors import AllroundError
from allround.identity import canonical
from allround.learners.resume import Keeper
from allround.stages.report import report
from faults import kills

FLIPS = int(os.environ.get("ALLROUND_FLIPS", "300"))
SEED = int(os.environ.get("ALLROUND_SEED", "0"))


def write_json(path: Path) -> None:
    artifacts.write_json(path, {"stage": "train", "seconds": 1.25, "host": "node1", "versions": {"torch": "2.9"}})


def write_state(path: Path) -> None:
    keeper = Keeper(path, IDENTITY, print)
    keeper.due = 0
    keeper.save(3, [torch.arange(500.0), torch.ones(3)])


def read_state(path: Path) -> list:
    """A damaged state is no error: the training begins at the beginning, and says so."""
    tensors, said = [torch.zeros(500), torch.zeros(3)], []
    done = Keeper(path, IDENTITY, said.append).restore(tensors)
    if not done:
        assert all(not tensor.any() for tensor in tensors) and len(said) == 1 and str(path) in said[0]
        raise AllroundError(f"{path}: delete it and run the same command again.")
    return [done, *tensors]


ALL = {**KINDS, "cost.json": (write_json, artifacts.read_json), "checkpoint.resume": (write_state, read_state)}


def content(found: object) -> str:
    """All that a reader can learn from an artifact."""
    if isinstance(found, artifacts.Dataset):
        parts = (found.train, found.test)
        splits = [[np.asarray(part.images).tolist(), part.labels.tolist(), part.origin.tolist()] for part in parts]
        return repr((found.name, found.classes, found.mean, found.std, splits, found.digest, found.identity))
    if isinstance(found, artifacts.View):
        rows = {name: found.read(name).tolist() for name in found.fields}
        found.file.close()
        return repr((found.rows, found.fields, found.identity, found.digest, rows))
    if isinstance(found, (artifacts.Labels, artifacts.Query)):
        return repr({name: np.asarray(value).tolist() for name, value in vars(found).items()})
    with np.printoptions(threshold=10**9):
        torch.set_printoptions(threshold=10**9)
        return repr(found)


@pytest.mark.parametrize("name", ALL)
def test_a_flipped_bit_is_noticed_or_changes_nothing(name, tmp_path):
    write, read = ALL[name]
    path, rng = tmp_path / name, random.Random(f"{SEED} {name}")
    write(path)
    whole, wanted = path.read_bytes(), content(read(path))
    bits = range(8 * len(whole)) if not FLIPS else rng.sample(range(8 * len(whole)), min(FLIPS, 8 * len(whole)))
    noticed = 0
    for bit in bits:
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            assert content(read(path)) == wanted, f"bit {bit} of {name}, seed {SEED}"
        except AllroundError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error)
            assert "delete it" in str(error) or "moved or copied" in str(error) or "another" in str(error), str(error)
    assert noticed > len(bits) / 2


def test_a_flipped_pixel_stops_what_reads_it_and_nothing_else(tmp_path):
    """Rows are read by themselves: an image that is whole can be read beside one that is not."""
    KINDS["dataset.h5"][0](tmp_path / "d.h5")
    whole = (tmp_path / "d.h5").read_bytes()
    fifth = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)[5]  # as test_artifacts writes it
    at = whole.index(fifth.tobytes()) + 30
    (tmp_path / "d.h5").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
    images = artifacts.read_dataset(tmp_path / "d.h5").train.images
    assert images[0:5].shape == (5, 4, 5, 3) and images[np.array([0, 7, 11])].shape == (3, 4, 5, 3)
    for rows in (slice(5, 6), slice(None), np.array([3, 5]), [5], 5, (slice(4, 6),)):
        with pytest.raises(AllroundError, match=r"d\.h5 \(train images\): damaged.*delete it and run the same command"):
            images[rows]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("damage", ["a page of zeros", "the half"])
def test_lost_pages_are_noticed(name, damage, tmp_path):
    write, read = ALL[name]
    write(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    middle = len(whole) // 2
    half = damage == "the half"
    broken = whole[:middle] if half else whole[: middle - 64] + bytes(128) + whole[middle + 64 :]
    (tmp_path / name).write_bytes(broken)
    try:
        assert content(read(tmp_path / name))
        assert broken == whole  # zeros on zeros
    except AllroundError as error:
        assert str(tmp_path / name) in str(error)


@pytest.mark.parametrize("file", ["rounds.csv", "provenance.json"])
def test_tables_that_were_damaged_make_no_report(file, tmp_path, reference):
    shutil.copytree(reference.work.root / kills.REPORT, tmp_path / "study")
    command = reference.commands["report"]
    identity = command.split("--identity ")[1].split(" > ")[0].strip("'")
    places = {name: tmp_path / "study" / name for name in ("summary.csv", "pairwise.csv", "efficiency.csv", "figures")}
    rounds, provenance, page = (tmp_path / "study" / name for name in ("rounds.csv", "provenance.json", "report.html"))
    whole = (tmp_path / "study" / file).read_bytes()
    rng, before = random.Random(SEED), page.read_bytes()
    for bit in rng.sample(range(8 * len(whole)), 40):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        (tmp_path / "study" / file).write_bytes(broken)
        try:
            report(
                rounds=rounds, provenance=provenance, report=page, summary=places["summary.csv"],
                pairwise=places["pairwise.csv"],
                efficiency=places["efficiency.csv"], figures=places["figures"], identity=identity,
            )  # fmt: skip
            assert page.read_bytes() == before
        except AllroundError as error:
            assert file in str(error) and "\n" not in str(error)


def test_a_damaged_file_stops_the_stage_that_reads_it_in_one_line(work, reference):
    """Through the stages: what a reader does not look at, a stage may."""
    victims = {
        "seed_set": "results/datasets/digits.h5",
        "label": f"{kills.ARM}/entropy_ensemble@5/seed0/round000/query.csv",
        "query": f"{kills.START}/pool/ensemble2.h5",
        "embed": f"{kills.START}/members/1/checkpoint.pt",
        "train": f"{kills.NEXT}/labels.csv",
        "collect": f"{kills.NEXT}/metrics.json",
        "report": f"{kills.REPORT}/rounds.csv",
    }
    rng = random.Random(SEED)
    with kills.idle_run() as run:
        for stage, victim in victims.items():
            kills.remove(work.root, stage)
            whole = (work.root / victim).read_bytes()
            at = len(whole) // 2 + rng.randrange(len(whole) // 8)
            broken = whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
            (work.root / victim).write_bytes(broken)
            result = kills.stage(work, reference.commands[stage], None, run)
            said = (work.root / reference.commands[stage].split(" > ")[1].split()[0]).read_text()
            (work.root / victim).write_bytes(whole)
            if result.returncode == 0:
                assert stage == "seed_set"  # looks at no image
            else:
                assert result.returncode == 1 and said.count("\n") == 1, said
                assert victim in said and "run the same command again" in said
            assert kills.stage(work, reference.commands[stage], None, run).returncode == 0
    wrong = kills.differences(kills.contents(work.root), reference.files)
    assert all(name.startswith(kills.REPORT) for name in wrong)  # these hold what jobs cost


def test_identities_of_damaged_files_are_not_believed(tmp_path):
    for name in ("labels.csv", "metrics.json"):
        KINDS[name][0](tmp_path / name)
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace('"seed":1', '"seed":3').replace('"seed": 1', '"seed": 3'))
        assert artifacts.identity_of(tmp_path / name) != IDENTITY
        with pytest.raises(AllroundError):
            KINDS[name][1](tmp_path / name, expect=CELL)
    assert canonical(json.loads(IDENTITY)) == IDENTITY
