"""Networks by name: build one, get features and logits of one forward pass, rebuild one from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from allround.errors import AllroundError, unknown
from allround.learners import LIBRARIES, PRETRAINED, file_of, names


class Classifier(nn.Module):
    """body: images (n, c, h, w) -> features (n, d); head: features -> logits (n, classes)."""

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, d) and logits (n, classes) of one forward pass."""
        features = self.body(images)
        return features, self.head(features)


def build(learner: Mapping[str, Any], shape: tuple[int, int, int], classes: int, *, fetch: bool = True) -> Classifier:
    """A learner's network on the CPU, initialised from torch's default generator.

    learner: complete settings
    shape: (height, width, channels) of the images
    fetch: whether pretrained weights may be fetched; False where all weights will be replaced
    AllroundError: the library does not know the name, weights cannot be fetched, or the images do not fit
    """
    name, arguments = learner["architecture"], dict(learner["arguments"])
    library, _, model = name.partition(":")
    if model:
        arguments["model"] = model
    if not fetch:
        arguments = {key: value for key, value in arguments.items() if key not in PRETRAINED}
    size = f"{shape[0]} x {shape[1]} x {shape[2]}"
    try:
        network = Classifier(*architecture(name).build(tuple(shape), classes, **arguments))
    except OSError as error:  # of a file or the network; the errors of huggingface_hub, which timm asks, are some too
        if not any(arguments.get(key) for key in PRETRAINED):
            raise
        remedy = "weights: null" if library == "torchvision" else "pretrained: false"
        raise AllroundError(
            f"the weights of {name} could not be fetched ({_line(error)}); connect this machine once, or set "
            f"{remedy} in the learner's arguments."
        ) from error
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise AllroundError(f"architecture {name} with arguments {learner['arguments']}: {_line(error)}.") from error
    try:
        with torch.no_grad():
            features, logits = network.eval().outputs(torch.zeros(1, shape[2], *shape[:2]))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise AllroundError(
            f"images of {size} do not fit the architecture {name} ({_line(error)}); choose a smaller architecture, "
            f"larger images, or arguments for this size{' (img_size, patch_size)' if library == 'timm' else ''}."
        ) from error
    if features.dim() != 2 or features.numel() == 0 or tuple(logits.shape) != (1, classes):
        raise AllroundError(
            f"architecture {name}: features {tuple(features.shape)} and logits {tuple(logits.shape)} for one image of "
            f"{size}; needed: (1, d) and (1, {classes}). Choose another architecture."
        )
    return network.train()


def architecture(name: str) -> ModuleType:
    """The module of learners/architectures that builds an architecture; the name may come from a stranger's file."""
    if file_of(name) not in (*names(), *LIBRARIES.values()):
        raise unknown("architecture", name, names())
    return import_module(f"allround.learners.architectures.{file_of(name)}")


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights and buffers on the CPU, in plain memory layout: equal models give equal bytes."""
    return {
        key: value.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }


def load(model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Put a checkpoint's weights into a model of the same architecture; `source` names them in the error."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AllroundError(f"{source}: its weights do not fit the learner's architecture ({_line(error)}).") from error


def pack(model: Classifier, learner: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """What a checkpoint holds: weights, and all that is needed to rebuild the model and feed it."""
    return {
        "learner": dict(learner),
        "shape": list(data.train.images.shape[1:]),
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "weights": weights(model),
    }


def unpack(payload: Mapping[str, Any], source: object) -> Classifier:
    """The model of a checkpoint, on the CPU and in evaluation mode."""
    try:
        learner, shape, classes = payload["learner"], tuple(payload["shape"]), len(payload["classes"])
        state = dict(payload["weights"])
        plain = isinstance(learner["architecture"], str) and isinstance(learner["arguments"], dict)
    except (KeyError, TypeError, ValueError):
        plain = False
    if not plain or len(shape) != 3:
        raise AllroundError(
            f"{source}: says too little to rebuild its model; delete it and run the same command again."
        )
    model = build(learner, shape, classes, fetch=False)
    load(model, state, source)
    return model.eval()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")[:200]
