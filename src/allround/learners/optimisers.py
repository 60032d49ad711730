"""SGD, Adam and AdamW as plain functions on PyTorch's fused kernels: a step never talks to the host.

The kernels are those of `torch.optim` with fused=True, called without its classes, whose construction imports the
compiler (1.6 s of CPU time, more than a small training takes). The learning rate is a tensor on the device and all
state is allocated up front, so that no step is special and a CUDA graph can hold one: SGD that starts from a momentum
of zeros takes the same first step as SGD that starts from none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Group:
    """Parameters with one learning rate: `factor` times the schedule's; state: name -> one tensor a parameter."""

    parameters: list[Tensor]
    factor: float
    weight_decay: float
    state: dict[str, list[Tensor]]


def groups(model: nn.Module, settings: Mapping[str, Any]) -> list[Group]:
    """The learned parameters of a model that lies on its device.

    settings: the learner's optimiser. `norm_bias_lr` multiplies the learning rate of the biases of normalisation
        layers, while their weight decay per step stays what it is for the others.
    """
    decay, factor = settings["weight_decay"], settings["norm_bias_lr"]
    norms = {id(module.bias) for module in model.modules() if isinstance(module, NORMS) and module.bias is not None}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    slow = [parameter for parameter in learned if factor == 1 or id(parameter) not in norms]
    fast = [parameter for parameter in learned if factor != 1 and id(parameter) in norms]
    both = ((slow, 1.0, decay), (fast, factor, decay / factor))
    return [Group(part, rate, wd, _state(part, settings)) for part, rate, wd in both if part]


def _state(parameters: list[Tensor], settings: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    def zeros() -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in parameters]  # keeps the parameter's memory layout

    if settings["name"] == "sgd":
        return {"momentum": zeros()} if settings["momentum"] else {}
    steps = [torch.zeros((), dtype=torch.float32, device=parameter.device) for parameter in parameters]
    return {"step": steps, "mean": zeros(), "square": zeros()}


def update(group: Group, rate: Tensor, settings: Mapping[str, Any]) -> None:
    """Take one step along the gradients. rate: () float32 on the device, the schedule's learning rate."""
    live = [i for i, parameter in enumerate(group.parameters) if parameter.grad is not None]
    if not live:
        return
    parameters = [group.parameters[i] for i in live]
    gradients = [parameter.grad for parameter in parameters]
    state = {name: [tensors[i] for i in live] for name, tensors in group.state.items()}
    common = {"lr": rate * group.factor, "weight_decay": group.weight_decay, "maximize": False}
    with torch.no_grad():
        if settings["name"] == "sgd":
            torch._fused_sgd_(
                parameters,
                gradients,
                state.get("momentum", []),
                momentum=settings["momentum"],
                dampening=0.0,
                nesterov=settings["nesterov"],
                is_first_step=False,
                **common,
            )
            return
        kernel = torch._fused_adam_ if settings["name"] == "adam" else torch._fused_adamw_
        torch._foreach_add_(state["step"], 1)
        beta1, beta2 = settings["betas"]
        kernel(
            parameters,
            gradients,
            state["mean"],
            state["square"],
            [],
            state["step"],
            beta1=beta1,
            beta2=beta2,
            eps=settings["eps"],
            amsgrad=False,
            **common,
        )


def forget_gradients(parts: list[Group]) -> None:
    """Drop the gradients, so that the next backward pass makes new ones instead of adding."""
    for group in parts:
        for parameter in group.parameters:
            parameter.grad = None


def tensors(model: nn.Module, parts: list[Group]) -> list[Tensor]:
    """All that a training step changes and that outlives it: weights, buffers, optimiser state, in a fixed order."""
    states = [tensor for group in parts for tensors in group.state.values() for tensor in tensors]
    return [*model.state_dict().values(), *states]
