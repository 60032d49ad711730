"""SGD, Adam and AdamW, set up so that a step never talks to the host: fused, state allocated, rates on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def build(model: nn.Module, settings: Mapping[str, Any]) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimiser of a model that lies on its device, and for each of its groups the factor on the learning rate.

    settings: the learner's optimiser. `norm_bias_lr` multiplies the learning rate of the biases of normalisation layers
        while their weight decay per step stays what it is for the others.

    Each group's `lr` is a tensor on the device that the step writes. Optimiser state is allocated here, so that no step
    is special: a momentum of zeros is what SGD starts from, and zeros are what Adam starts from.
    """
    groups, factors = _groups(model, settings)
    device = next(model.parameters()).device
    for group in groups:
        group["lr"] = torch.zeros((), device=device)
    if settings["name"] == "sgd":
        optimiser = torch.optim.SGD(
            groups,
            momentum=settings["momentum"],
            nesterov=settings["nesterov"] and settings["momentum"] > 0,
            fused=True,
        )
    else:
        kind = torch.optim.Adam if settings["name"] == "adam" else torch.optim.AdamW
        optimiser = kind(
            groups, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True, capturable=device.type == "cuda"
        )
        # said once per process when an Adam that may be captured also runs uncaptured, as in the warm-up
        optimiser._warned_capturable_if_run_uncaptured = True
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter].update(_state(settings, parameter))
    return optimiser, factors


def _groups(model: nn.Module, settings: Mapping[str, Any]) -> tuple[list[dict], list[float]]:
    decay, factor = settings["weight_decay"], settings["norm_bias_lr"]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if factor == 1:
        return [{"params": learned, "weight_decay": decay}], [1.0]
    norms = {id(module.bias) for module in model.modules() if isinstance(module, NORMS) and module.bias is not None}
    fast = [parameter for parameter in learned if id(parameter) in norms]
    slow = [parameter for parameter in learned if id(parameter) not in norms]
    groups = [{"params": slow, "weight_decay": decay}, {"params": fast, "weight_decay": decay / factor}]
    kept = [(group, rate) for group, rate in zip(groups, (1.0, factor), strict=True) if group["params"]]
    return [group for group, _ in kept], [rate for _, rate in kept]


def _state(settings: Mapping[str, Any], parameter: Tensor) -> dict[str, Tensor]:
    zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if settings["name"] == "sgd":
        return {"momentum_buffer": zeros} if settings["momentum"] else {}
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


def tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """All that a training step changes and that outlives it, in a fixed order: weights, buffers, optimiser state."""
    states = [
        value
        for group in optimiser.param_groups
        for parameter in group["params"]
        for _, value in sorted(optimiser.state[parameter].items())
    ]
    return [*model.state_dict().values(), *states]
