"""The stages train and embed, run as a researcher runs them by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from allround import learners
from allround.artifacts import (
    Labels,
    Split,
    open_view,
    read_checkpoint,
    read_dataset,
    read_metrics,
    write_dataset,
    write_labels,
)
from allround.errors import AllroundError
from allround.identity import canonical
from allround.learners import inference
from allround.learners.model import unpack
from allround.pool import Pool
from allround.stages.embed import embed
from allround.stages.train import train

CELL = {"dataset": "squares", "learner": "mine", "start": "random20", "arm": "start", "seed": 3, "round": 0}
RECIPE = {
    "architecture": "cnn",
    "arguments": {"width": 4, "hidden": 16, "dropout": 0.1},
    "epochs": 4,
    "batch_size": 8,
    "augmentation": {"crop": 1, "flip": False},
    "optimiser": {"name": "sgd", "lr": 0.05, "weight_decay": 0.0005},
}


def split(n, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 100, (n, 9, 8, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * 3 : label * 3 + 3] += 120
    return Split(images, labels, np.arange(n))


def write(folder, name="squares", seed=0):
    path = folder / f"{name}.h5"
    identity = canonical({"stage": "dataset", "cell": {"dataset": name}, "settings": {}})
    write_dataset(path, identity=identity, classes=["a", "b", "c"], train=split(70, seed), test=split(31, seed + 1))
    return path


def job(stage, cell=CELL, **settings):
    if stage == "train":
        settings = learners.settings({**RECIPE, **settings}, "test")
    return canonical({"stage": stage, "cell": cell, "settings": settings, "inputs": {}, "code": ""})


def label(folder, digest, index=None, labels=None, cell=CELL, name="labels.csv"):
    index = np.arange(20) * 3 % 70 if index is None else np.asarray(index)
    labels = index % 3 if labels is None else np.asarray(labels)
    path = folder / name
    identity = canonical({"stage": "seed_set", "cell": cell, "settings": {}})
    write_labels(path, Labels(index, labels, np.zeros_like(index)), identity=identity, digest=digest)
    return path


@pytest.fixture
def files(tmp_path):
    dataset = write(tmp_path)
    digest = read_dataset(dataset).digest
    return {"dataset": dataset, "labels": label(tmp_path, digest), "folder": tmp_path, "digest": digest}


def run_train(files, identity=None, folder=None, **changed):
    folder = folder or files["folder"]
    folder.mkdir(exist_ok=True)
    paths = {key: files[key] for key in ("dataset", "labels")} | {"previous": None, "weights": None} | changed
    out = {"checkpoint": folder / "checkpoint.pt", "metrics": folder / "metrics.json"}
    facts = train(**paths, **out, identity=identity or job("train"), device="cpu", threads=1)
    return out["checkpoint"], out["metrics"], facts


def run_embed(files, checkpoint, view="outputs", cell=None, dataset=None):
    path = files["folder"] / "pool/outputs.h5"
    cell = {**CELL, "view": view} if cell is None else cell
    identity = job("embed", cell, view=view)
    return path, embed(
        dataset=dataset or files["dataset"],
        checkpoint=checkpoint,
        members=[],
        view=path,
        identity=identity,
        device="cpu",
        threads=1,
    )


def test_both_stages_run_from_their_command_line_and_write_what_they_promise(files):
    folder = files["folder"]

    def stage(name, identity, **paths):
        arguments = [part for key, path in paths.items() for part in (f"--{key}", str(path))]
        command = [
            sys.executable,
            "-m",
            f"allround.stages.{name}",
            *arguments,
            "--identity",
            identity,
            "--device",
            "cpu",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    paths = {"checkpoint": folder / "checkpoint.pt", "metrics": folder / "metrics.json", "cost": folder / "train.json"}
    done = stage("train", job("train"), dataset=files["dataset"], labels=files["labels"], **paths)
    assert done.returncode == 0, done.stderr
    assert "trained 4 epochs, 12 steps: loss " in done.stdout and "test accuracy " in done.stdout
    metrics = read_metrics(paths["metrics"], CELL)
    facts = {"n_labels": 20, "n_test": 31, "epochs": 4, "steps": 12}
    assert {key: metrics[key] for key in facts} == facts
    assert {"accuracy", "nll", "ece", "per_class_accuracy", "train_accuracy", "train_loss"} <= metrics.keys()
    assert metrics["precision"] == "float32"  # what `auto` means on a CPU
    cost = json.loads(paths["cost"].read_text())
    assert cost["images"] == 96 and cost["images_per_second"] > 0 and cost["device"] == "cpu"
    assert not list(folder.glob("*.resume"))

    view, cost = folder / "pool/outputs.h5", folder / "embed.json"
    more = {"dataset": files["dataset"], "checkpoint": paths["checkpoint"], "view": view, "cost": cost}
    done = stage("embed", job("embed", {**CELL, "view": "outputs"}, view="outputs"), **more)
    assert done.returncode == 0, done.stderr
    assert open_view(view, "outputs", {**CELL, "view": "outputs"}).rows == 70
    assert json.loads(cost.read_text())["images"] == 70

    done = stage("embed", job("embed", {**CELL, "view": "mc"}, view="mc"), **more)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "was made by another configuration" in done.stderr


def test_a_view_holds_features_and_logits_of_one_forward_pass_over_the_whole_pool(files):
    checkpoint, _, _ = run_train(files)
    path, facts = run_embed(files, checkpoint)
    view = open_view(path, "outputs")
    features, logits = view.read("features"), view.read("logits")
    assert features.dtype == np.float16 and logits.dtype == np.float32 and facts == {"images": 70}
    assert view.fields == {"features": (16,), "logits": (3,)} and view.digest == files["digest"]
    saved = read_checkpoint(checkpoint, CELL)
    model = unpack(saved, checkpoint)
    images = torch.from_numpy((split(70, 0).images / 255 - saved["mean"][0]) / saved["std"][0]).float()
    with torch.no_grad():
        direct, direct_logits = model.outputs(images.permute(0, 3, 1, 2))
    np.testing.assert_allclose(features, direct.numpy(), atol=2e-3)
    np.testing.assert_allclose(logits, direct_logits.numpy(), atol=1e-5)
    head = torch.from_numpy(features.astype(np.float32))
    np.testing.assert_allclose(model.head(head).detach().numpy(), logits, atol=1e-2)


def test_the_metrics_are_those_of_the_checkpoint_on_the_test_set(files):
    checkpoint, path, _ = run_train(files)
    saved, metrics = read_checkpoint(checkpoint, CELL), read_metrics(path, CELL)
    test = read_dataset(files["dataset"]).test
    images = torch.from_numpy((np.asarray(test.images) / 255 - saved["mean"][0]) / saved["std"][0]).float()
    with torch.no_grad():
        logits = unpack(saved, checkpoint)(images.permute(0, 3, 1, 2)).double()
    truth = torch.from_numpy(np.asarray(test.labels))
    hit = logits.argmax(1) == truth
    assert metrics["accuracy"] == pytest.approx(hit.double().mean().item(), abs=1e-12)
    assert metrics["per_class_accuracy"] == pytest.approx([hit[truth == c].double().mean().item() for c in range(3)])
    assert metrics["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, truth).item(), rel=1e-5)


def scaled(checkpoint, factor):
    """Make the checkpoint's features `factor` times as large: those of a network that was trained to other weights."""
    saved = read_checkpoint(checkpoint)
    last = [key for key in saved["weights"] if key.startswith("body.") and key.endswith(".bias")][-1]
    for key in (last, last.replace("bias", "weight")):
        saved["weights"][key] *= factor
    saved["weights"]["head.weight"] /= factor
    torch.save(saved, checkpoint)


def test_features_beyond_the_range_of_float16_are_stored_as_float32(files, capsys, monkeypatch):
    monkeypatch.setitem(inference.PIXELS, "cpu", 7 * 72)  # blocks of seven images
    checkpoint, _, _ = run_train(files)
    path, _ = run_embed(files, checkpoint)
    features, logits = (open_view(path, "outputs").read(field) for field in ("features", "logits"))
    first, largest = np.abs(features[:7].astype(np.float32)).max(), np.abs(features.astype(np.float32)).max()
    assert first < 0.99 * largest  # the overflow comes after rows have been written
    capsys.readouterr()
    factor = 65504 / (0.5 * (first + largest))
    scaled(checkpoint, factor)
    path, facts = run_embed(files, checkpoint)
    view = open_view(path, "outputs")
    wide = view.read("features")
    assert wide.dtype == np.float32 and wide.max() > 65504 and facts == {"images": 70}
    np.testing.assert_allclose(wide, features * np.float32(factor), rtol=1e-2, atol=1e-3 * factor)
    np.testing.assert_allclose(view.read("logits"), logits, atol=1e-4)
    assert capsys.readouterr().out.count("beyond float16's range: starting again, storing float32") == 1
    assert [file.name for file in path.parent.iterdir()] == ["outputs.h5"]
    pool = Pool.open({"outputs": path}, files["labels"])
    assert pool.features.dtype == torch.float32 and pool.features.max() > 65504


def test_outputs_that_are_not_finite_are_one_clear_line(files):
    checkpoint, _, _ = run_train(files)
    scaled(checkpoint, 1e38)
    scaled(checkpoint, 1e38)
    with pytest.raises(AllroundError, match="outputs for images 0 to 69 are not finite") as error:
        run_embed(files, checkpoint)
    assert "\n" not in str(error.value) and not list(files["folder"].glob("pool/*"))


def test_a_training_that_diverges_is_one_clear_line_and_leaves_nothing_behind(files):
    identity = job("train", optimiser={"name": "sgd", "lr": 1e4, "weight_decay": 1e3}, epochs=30)
    with pytest.raises(
        AllroundError, match=r"training loss is (nan|inf) in epoch \d+.*lower the learner's lr"
    ) as error:
        run_train(files, identity)
    assert "\n" not in str(error.value)
    assert not [path for path in files["folder"].iterdir() if path.name in ("checkpoint.pt", "metrics.json")]


def test_the_same_job_writes_the_same_bytes(files):
    first, second = (run_train(files, folder=files["folder"] / name)[:2] for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    other = run_train(
        files, job("train", {**CELL, "seed": 4}), files["folder"] / "third", labels=_relabel(files, seed=4)
    )
    assert not torch.equal(*(read_checkpoint(path)["weights"]["head.weight"] for path in (first[0], other[0])))


def _relabel(files, **cell):
    return label(files["folder"], files["digest"], cell={**CELL, **cell}, name="other.csv")


KILLED = """
import sys, time
from allround.learners import resume
resume.SECONDS, resume.SHARE = 0.0, 1e9
save = resume.Keeper.save
resume.Keeper.save = lambda *arguments: (save(*arguments), time.sleep(3600))  # until it is killed
from allround.job import run_stage
from allround.stages.train import train
files = {"inputs": ("dataset", "labels"), "optional": ("previous",), "given": ("weights",)}
run_stage(train, **files, outputs=("checkpoint", "metrics"))
"""


def test_killed_in_the_middle_the_same_command_goes_on_and_writes_the_same_bytes(files):
    identity = job("train", epochs=300)
    whole = run_train(files, identity, files["folder"] / "undisturbed")[:2]
    folder = files["folder"] / "killed"
    folder.mkdir()
    arguments = {
        **{key: files[key] for key in ("dataset", "labels")},
        "checkpoint": folder / "checkpoint.pt",
        "metrics": folder / "metrics.json",
    }
    command = [sys.executable, "-c", KILLED, "--identity", identity, "--device", "cpu"]
    process = subprocess.Popen([*command, *(part for key, path in arguments.items() for part in (f"--{key}", path))])
    state, limit = folder / "checkpoint.resume", time.monotonic() + 600
    while not state.exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists() and not arguments["checkpoint"].exists(), "it ended before it was killed"
    *parts, facts = run_train(files, identity, folder)
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in parts]
    assert facts["images"] < 300 * 24 and not state.exists()


def test_a_warm_start_continues_from_the_round_before(files):
    cells = [{**CELL, "round": number, "arm": "start" if number == 0 else "margin@5"} for number in (0, 1)]
    first, _, _ = run_train(files, job("train", cells[0], initialisation="warm"), files["folder"] / "first")
    still = {"initialisation": "warm", "epochs": 1, "optimiser": {"name": "sgd", "lr": 1e-12}}
    labels = label(files["folder"], files["digest"], cell=cells[1], name="more.csv")
    second, _, _ = run_train(
        files, job("train", cells[1], **still), files["folder"] / "second", previous=first, labels=labels
    )
    heads = [read_checkpoint(path)["weights"]["head.weight"] for path in (first, second)]
    torch.testing.assert_close(*heads, atol=1e-8, rtol=0)
    with pytest.raises(AllroundError, match=r"give its checkpoint\.pt with --previous"):
        run_train(files, job("train", cells[1], **still), labels=labels)
    with pytest.raises(AllroundError, match="leave --previous out"):
        run_train(files, job("train", cells[1]), previous=first, labels=labels)
    with pytest.raises(AllroundError, match="made for round 1, needed for round 0"):
        run_train(files, job("train", cells[1], **still), previous=second, labels=labels)
    with pytest.raises(AllroundError, match="names no file of weights; leave --weights out"):
        run_train(files, weights=first)
    with pytest.raises(AllroundError, match="starts from a file of weights; give it with --weights"):
        run_train(files, job("train", initialisation={"checkpoint": str(first)}))


def test_wrong_inputs_of_train_are_one_clear_line(files, tmp_path):
    def fails(says, **changed):
        with pytest.raises(AllroundError, match=says) as error:
            run_train(files, **changed)
        assert "\n" not in str(error.value) and not (tmp_path / "checkpoint.pt").exists()

    folder, digest = tmp_path / "bad", files["digest"]
    folder.mkdir()
    fails("index 70 is not in dataset 'squares'; allowed: 0 to 69", labels=label(folder, digest, [1, 70], [0, 0]))
    fails("labels run from 0 to 3; allowed: 0 to 2", labels=label(folder, digest, [1, 2], [0, 3]))
    fails("holds no label", labels=label(folder, digest, np.zeros(0, int), np.zeros(0, int)))
    fails("made from another version of the dataset", labels=label(folder, "0" * 16))
    fails("made for seed 4, needed for seed 3", labels=_relabel(files, seed=4))
    fails("made for dataset 'circles', needed for dataset 'squares'", dataset=write(tmp_path, "circles"))
    fails("images of 9 x 8 x 1 do not fit", identity=job("train", architecture="airbench", arguments={}))


def test_wrong_inputs_of_embed_are_one_clear_line(files, tmp_path):
    checkpoint, _, _ = run_train(files)
    with pytest.raises(AllroundError, match=r"unknown view 'output'\. Did you mean 'outputs'"):
        run_embed(files, checkpoint, view="output")
    with pytest.raises(AllroundError, match="made for round 0, needed for round 1"):
        run_embed(files, checkpoint, cell={**CELL, "round": 1, "view": "outputs"})
    (tmp_path / "new").mkdir()
    with pytest.raises(AllroundError, match="made from another version of the dataset"):
        run_embed(files, checkpoint, dataset=write(tmp_path / "new", seed=9))
    assert not Path(files["folder"] / "pool/outputs.h5").exists()


def test_an_impossible_device_is_one_clear_line():
    from allround.device import choose

    for name, says in (("gpu", "device 'gpu' is unknown; allowed: auto, cpu"), ("cuda:99", "device 'cuda:99'")):
        with pytest.raises(AllroundError, match=says):
            choose(name)
    with pytest.raises(AllroundError, match="--threads 0"):
        choose("cpu", 0)
    assert choose("cpu").type == "cpu"


def test_exact_arithmetic_on_cuda_means_no_tf32(monkeypatch):
    from allround.device import choose

    for name, answer in (("is_available", True), ("device_count", 1), ("is_initialized", True), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    for name in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
        monkeypatch.setattr(torch.backends.cuda, name, lambda _: None)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        for options, tf32 in (({}, True), ({"exact": True}, False), ({"exact": False}, True)):
            assert choose("cuda", **options) == torch.device("cuda:0")
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (tf32, tf32)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
