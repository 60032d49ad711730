"""Images per second of training and of embedding, against the usual PyTorch loop in the same run.

    python benchmarks/training.py --learner resnet18_paper --batch 64 128 512 --device cuda
    python benchmarks/training.py --learner fast --batch 125 --device cpu --images 500 --seconds 10

Synthetic images of CIFAR-10's shape. The rival is what most code does: torchvision's transforms on every image on the
CPU (in a DataLoader with --workers processes), one host synchronisation a step for the running loss, no capture,
float32. It trains the same network with the same optimiser. Start-up, capture and warm-up are not counted. Prints a
markdown table; with a GPU also the step without its CUDA graph.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from allround import learners
from allround.device import choose
from allround.learners import augmentation, optimisers
from allround.learners.inference import outputs
from allround.learners.model import build
from allround.learners.steps import allocate, faster, stepper
from allround.learners.training import epoch_order

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SHAPE, CLASSES = (32, 32, 3), 10


def main() -> None:
    options = arguments()
    device = choose(options.device, options.threads)
    catalogue = yaml.safe_load(Path(__file__).parents[1].joinpath("config/catalogue/learners.yaml").read_text())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, *SHAPE)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, options.images)
    print(f"`{' '.join(['python', *sys.argv])}`  ")
    print(f"{hardware(device)}, PyTorch {torch.__version__}, threads: {options.threads}\n")
    print("| learner | batch | what | images/s | against the usual loop |\n|---|---|---|---|---|")
    for batch in options.batch:
        changes = {"batch_size": batch, "precision": options.precision}
        learner = learners.settings(catalogue[options.learner] | changes, options.learner)
        rows = {"the usual loop": usual_loop(images, labels, learner, device, options)}
        rows["training, eager"] = training(images, labels, learner, device, options.seconds, graph=False)
        if device.type == "cuda":
            rows["training, CUDA graph"] = training(images, labels, learner, device, options.seconds, graph=True)
        for what, speed in rows.items():
            ratio = f"{speed / rows['the usual loop']:.1f} x"
            print(f"| {options.learner} | {batch} | {what} | {speed:,.0f} | {ratio} |", flush=True)
    print(
        f"| {options.learner} | | embedding | {embedding(images, learner, device, options.seconds):,.0f} | |",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learner", default="resnet18_paper", help="an entry of config/catalogue/learners.yaml")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="of our training: auto, float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes of the usual loop's DataLoader")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured for each row")
    return parser.parse_args()


def training(images, labels, learner, device, seconds, *, graph) -> float:
    """Images per second of the steps that allround trains with, augmentation included."""
    torch.manual_seed(0)
    model = build(learner, SHAPE, CLASSES).to(device=device, memory_format=torch.channels_last)
    parts = optimisers.groups(model, learner["optimiser"])
    buffers = allocate(images, labels, MEAN, STD, learner, device)
    steps, batch = buffers.order.shape
    rng = np.random.default_rng(0)

    def fill() -> None:
        buffers.order.copy_(torch.from_numpy(epoch_order(rng, len(images), batch)))
        buffers.draws.copy_(
            torch.from_numpy(augmentation.draw(rng, (steps, batch), SHAPE[:2], learner["augmentation"]))
        )
        buffers.rates.fill_(1e-4)
        buffers.at.zero_()

    fill()
    step = stepper(model, parts, buffers, learner, SHAPE[:2])
    if graph:
        step = faster(step, buffers, optimisers.tensors(model, parts), fail)
    for _ in range(min(2, steps)):
        step()

    def epochs() -> int:
        fill()
        for number in range(1, steps + 1):
            step()
            if device.type == "cpu" and time.perf_counter() > deadline:
                return number * batch
        synchronise(device)
        return steps * batch

    synchronise(device)
    started = time.perf_counter()
    deadline, done = started + seconds, 0
    while time.perf_counter() < deadline:
        done += epochs()
    return done / (time.perf_counter() - started)


def usual_loop(images, labels, learner, device, options) -> float:
    """Images per second of a plain loop: transforms of single images, a DataLoader, torch.optim, loss.item() a step."""
    from torchvision import transforms

    augment = learner["augmentation"] or {"crop": 0, "flip": False}
    steps = [transforms.ToPILImage()]
    steps += [transforms.RandomCrop(SHAPE[0], padding=augment["crop"])] if augment["crop"] else []
    steps += [transforms.RandomHorizontalFlip()] if augment["flip"] else []
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int):
            return transform(images[index]), int(labels[index])

    torch.manual_seed(0)
    model = build(learner, SHAPE, CLASSES).to(device)
    chosen = learner["optimiser"]
    if chosen["name"] == "sgd":
        keys = ("lr", "momentum", "nesterov", "weight_decay")
        optimiser = torch.optim.SGD(model.parameters(), **{key: chosen[key] for key in keys})
    else:
        optimiser = torch.optim.AdamW(model.parameters(), lr=chosen["lr"], weight_decay=chosen["weight_decay"])
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=learner["label_smoothing"])
    batch = min(learner["batch_size"], len(images))
    loader = torch.utils.data.DataLoader(
        Images(), batch, shuffle=True, drop_last=True, num_workers=options.workers,
        persistent_workers=options.workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    done, warm_up, started = 0, 2, 0.0
    while True:
        for x, y in loader:
            if warm_up == 0 and not started:
                synchronise(device)
                started = time.perf_counter()
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimiser.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimiser.step()
            loss.item()
            if started:
                done += batch
                if time.perf_counter() - started > options.seconds:
                    return done / (time.perf_counter() - started)
            else:
                warm_up -= 1


def embedding(images, learner, device, seconds) -> float:
    """Images per second of features and logits, from uint8 in memory to arrays on the host."""
    model = build(learner, SHAPE, CLASSES).to(device=device, memory_format=torch.channels_last)

    def run(part) -> int:
        return sum(len(logits) for _, _, logits in outputs(model, part, mean=MEAN, std=STD, device=device))

    run(images[: min(len(images), 2048)])
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        done += run(images)
    return done / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def fail(message: str) -> None:
    sys.exit(message)  # a figure for a graph that was not captured would be a lie


if __name__ == "__main__":
    main()
