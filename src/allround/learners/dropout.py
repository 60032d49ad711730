"""Monte Carlo dropout: draws of a network's outputs, as if its weights were drawn anew for every image and pass.

Gal & Ghahramani 2016 (ICML, arXiv 1506.02142). Every dropout of the network drops with its own rate, whether a module
or a call of torch.nn.functional; all else stays in evaluation mode, batch normalisation above all. Off stay stochastic
depth, which is no dropout, and the dropout of attention weights, which happens inside a fused kernel. A network without
dropout gets one of RATE on its features, before the head: hence every network can drop.

Masks depend on the seed, the kind of device and the block of images that are passed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from allround.learners.model import Classifier

RATE = 0.2  # what the networks of torchvision and timm have there that come with one (MobileNet, EfficientNet)
DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


class _Dropouts(TorchFunctionMode):
    """Sees every call of a dropout with a rate above 0, and makes it drop if asked to.

    To set modules to training mode would miss the functional calls (timm has many), and find modules that are not used.
    """

    def __init__(self, drop: bool):
        super().__init__()
        self.drop, self.calls = drop, []

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function not in DROPOUTS or not kwargs["p"]:
            return function(*args, **kwargs)
        out = function(*args, **{**kwargs, "training": self.drop})
        if not self.drop:
            self.calls.append((function, kwargs["p"], out))
        return out


def on_features(model: Classifier, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The network's dropout as a function of its features; None where it drops earlier than that.

    images: any (b, channels, h, w) that the network takes
    """
    model.eval()
    with torch.inference_mode(), _Dropouts(drop=False) as seen:
        features = model.body(images)
    if not seen.calls:
        return partial(F.dropout, p=RATE, training=True)
    function, rate, out = seen.calls[0]
    return partial(function, p=rate, training=True) if len(seen.calls) == 1 and out is features else None


def draws(model: Classifier, images: Tensor, seeds: Sequence[int], drop: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Logits (t, b, c) of t passes with dropout, each with its seed; every image has masks of its own.

    drop: on_features(model, ...); where it is a function, the body runs once for all passes
    """
    model.eval()
    features = model.body(images) if drop else None
    # dropout draws from the device's default generator and takes no other
    generator = torch.cuda.default_generators[images.device.index] if images.is_cuda else torch.default_generator
    state = generator.get_state()
    try:
        passes = []
        for seed in seeds:
            generator.manual_seed(seed)
            if drop:
                passes.append(model.head(drop(features)))
            else:
                with _Dropouts(drop=True):
                    passes.append(model(images))
        return torch.stack(passes)
    finally:
        generator.set_state(state)
