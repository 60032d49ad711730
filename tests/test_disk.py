"""What a user would lose: a night's run to a full disk that could have been foreseen."""

from __future__ import annotations

import os

import numpy as np
import pytest
import yaml

from allround import artifacts, disk, learners, study
from allround.datasets import shapes
from allround.errors import AllroundError
from allround.learners import sizes


def never(path, identity):
    return False


def load(root, name="tiny"):
    config = yaml.safe_load((root / "config/config.yaml").read_text())
    return study.load({**config, "study": name}, root)


def need(work, keep=(), jobs=2, made=never, name="tiny"):
    return disk.need(load(work.root, name), data=work.root / "data", keep=keep, jobs=jobs, made=made)


def on_disk(*folders):
    """Bytes that files and folders take, in blocks."""
    paths = [path for folder in folders for path in [folder, *folder.rglob("*")]]
    return sum(os.lstat(path).st_blocks * 512 for path in paths)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("mlp", {"width": 24, "layers": 3}),
        ("cnn", {"width": 8, "hidden": 32}),
        ("resnet18", {}),
        ("airbench", {"width": 32}),
        ("torchvision:mobilenet_v3_small", {}),
    ],
)
@pytest.mark.parametrize(("shape", "classes"), [((32, 32, 3), 10), ((48, 64, 1), 7)])
def test_a_network_is_as_large_as_the_planner_says(architecture, arguments, shape, classes):
    from allround.learners.model import build

    learner = learners.settings({"architecture": architecture, "arguments": arguments}, "here")
    found = sizes.size(learner, shape, classes)
    network = build(learner, shape, classes, fetch=False)
    state = network.state_dict().values()
    assert found.weights == sum(tensor.nbytes for tensor in state)
    assert found.tensors == len(state)
    assert found.width == network.head.in_features


def test_every_shipped_architecture_is_known_without_torch():
    assert sorted(sizes.FORMULAS) == learners.names()


def test_a_network_that_does_not_fit_its_images_is_refused_before_any_job():
    learner = learners.settings({"architecture": "torchvision:vgg11"}, "here")
    with pytest.raises(AllroundError, match="images of 8 x 8 x 1 do not fit"):
        sizes.size(learner, (8, 8, 1), 10)


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_view_is_as_large_as_the_planner_says(tmp_path, classes):
    rows = 5000
    pool, network = (
        shapes.Shapes((rows, 8, 8, 1), (10, 8, 8, 1), tuple(map(str, range(classes)))),
        sizes.Size(0, 0, 300),
    )
    blocks = {
        "outputs": {"features": np.ones((rows, 300), np.float16), "logits": np.ones((rows, classes), np.float32)},
        "ensemble3": {"mc_logits": np.ones((3, rows, classes), np.float32)},
        "mc_dropout10": {"mc_logits": np.ones((10, rows, classes), np.float32)},
    }
    for view, fields in blocks.items():
        draws = view != "outputs"
        one = {name: block.shape[:1] + block.shape[2:] if draws else block.shape[1:] for name, block in fields.items()}
        dtypes = {name: block.dtype.name for name, block in fields.items()}
        path = tmp_path / f"{view}.h5"
        with artifacts.create_view(path, view, rows=rows, fields=one, dtypes=dtypes, identity="{}", digest="") as out:
            out.write(0, **fields)
        assert disk.view_bytes(view, pool, network) == pytest.approx(path.stat().st_size, rel=0.001)


def test_what_a_dataset_will_be_is_known_before_it_is_converted(finished, tmp_path):
    made = shapes.converted(finished.root / "results/datasets/digits.h5")
    assert shapes.expected("digits", tmp_path, {}) == made
    assert made.bytes == pytest.approx((finished.root / "results/datasets/digits.h5").stat().st_size, rel=0.01)
    images = np.zeros((9, 6, 5, 3), np.uint8)
    labels = np.arange(9) % 3
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    found = shapes.expected("npz", tmp_path, {"file": "mine.npz", "classes": []})
    assert found == shapes.Shapes((9, 6, 5, 3), (4, 6, 5, 3), ("0", "1", "2"))


@pytest.mark.parametrize("size", [0, 4])
def test_what_a_folder_of_images_will_be_is_known_before_it_is_converted(tmp_path, size):
    from PIL import Image

    for name, count in (("cat", 4), ("dog", 6)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (6, 5)).save(tmp_path / "pets" / name / f"{number}.png")
    options = {"folder": "pets", "size": size, "mode": "grey", "test_fraction": 0.5, "split_seed": 0}
    side = (size, size) if size else (5, 6)
    assert shapes.expected("folder", tmp_path, options) == shapes.Shapes((5, *side, 1), (5, *side, 1), ("cat", "dog"))


def test_a_study_takes_what_was_predicted(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where nothing is there yet
    found = need(finished, keep=["checkpoints"])
    checkpoints = list((finished.root / "results").rglob("checkpoint.pt"))
    assert found.checkpoints == pytest.approx(sum(on_disk(path) for path in checkpoints), rel=0.2)
    taken = on_disk(finished.root / "results", finished.root / ".snakemake/metadata")
    assert found.stays == pytest.approx(taken, rel=0.2)


def test_only_what_is_missing_counts(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(finished.root)
    whole = need(finished, keep=["checkpoints", "embeddings"])
    half = need(finished, keep=["checkpoints", "embeddings"], made=lambda path, identity: "round002" not in path)
    assert half.dataset == 0
    assert 0 < half.checkpoints == whole.checkpoints * 3 / 7
    assert half.small < whole.small


def test_what_is_deleted_after_use_counts_once_for_every_job_at_a_time(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    two, eight = need(finished, jobs=2), need(finished, jobs=8)
    assert (two.checkpoints, two.embeddings) == (0, 0)
    assert two.temporary == 2 * two.step > 0
    assert eight.temporary == 4 * two.step  # three arms and the start: no more can be under way
    kept = need(finished, keep=["checkpoints", "embeddings"])
    assert kept.step < two.step
    assert kept.stays > two.stays + two.step


def test_an_ensemble_and_a_warm_start_hold_a_checkpoint_for_every_arm(finished, monkeypatch, tmp_path):
    work = finished.root
    monkeypatch.chdir(tmp_path)
    plain = need(finished)
    tiny = (work / "config/studies/tiny.yaml").read_text()
    (tmp_path / "many.yaml").write_text(
        tiny.replace("margin, glister", "margin_ensemble").replace("seeds: 1", "seeds: 2")
    )
    many = need(finished, name=str(tmp_path / "many.yaml"))
    single = need(finished, keep=["checkpoints", "embeddings"]).checkpoints / 7
    chains = 2 * (1 + 2)  # seeds x (start and two arms); 4 more members and the round's own model
    assert many.temporary - 2 * many.step == pytest.approx(chains * 4 * single, rel=0.2)
    assert plain.temporary == 2 * plain.step


def test_trainings_that_run_again_for_their_checkpoint_are_foretold(bare):
    bare.edit("config/studies/tiny.yaml", "rounds: 3", "rounds: 4")
    output = bare.snakemake("-n", "--quiet", "rules")
    assert "Finished trainings that run again, because their checkpoints were not kept: 2." in output


def test_a_study_that_cannot_fit_is_refused_in_one_line_before_it_starts(workspace):
    workspace.edit("src/allround/disk.py", ").free", ").free * 0 + 3_000_000")
    for arguments in ((), ("-n",)):  # a dry run says it, and goes on
        output = workspace.snakemake(*arguments, ok=bool(arguments))
        (line,) = [line for line in output.splitlines() if "disk: study 'tiny' will write" in line]
        assert "but only 3 MB are free in" in line
        assert "free some space, keep less" in line
        assert "Traceback" not in output
        assert "InputFunctionException" not in output
    assert not (workspace.root / "results").exists() or not list((workspace.root / "results").rglob("*.h5"))


def test_a_study_that_barely_fits_is_planned_with_a_warning(workspace):
    workspace.edit("src/allround/disk.py", ").free", ").free * 0 + 6_400_000")
    output = workspace.snakemake("-n", "--quiet", "rules")
    assert output.count("This will be tight") == 1


def test_the_need_is_said_once_and_not_where_nothing_is_to_be_done(copy):
    assert "disk:" not in copy.snakemake()
    copy.edit("config/studies/tiny.yaml", "rounds: 3", "rounds: 4")
    assert copy.snakemake("-n").count("disk: study 'tiny' will write") == 1
