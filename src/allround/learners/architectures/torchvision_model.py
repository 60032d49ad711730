"""Any classifier of torchvision, as "torchvision:<name>"; the learner's arguments go to its constructor.

Its last linear layer becomes the head, what comes before it the body. Grey images are repeated over three channels.
`weights: DEFAULT` starts from torchvision's pretrained weights (downloaded once) with a new head.
"""

from __future__ import annotations

from torch import Tensor, nn

from allround.errors import AllroundError, unknown


def check(model: str) -> None:
    """AllroundError: not a classifier of torchvision."""
    from torchvision import models  # 2 s to import: paid by the learners that need it

    names = models.list_models(module=models)
    if model not in names:
        raise unknown("torchvision classifier", model, names)


def build(shape: tuple[int, int, int], classes: int, *, model: str, **arguments: object) -> tuple[nn.Module, nn.Module]:
    """AllroundError: not a classifier of torchvision, or one whose last layer is not linear."""
    from torchvision import models

    check(model)
    if model in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    pretrained = arguments.get("weights") is not None  # pretrained weights come with the classes of ImageNet
    network = models.get_model(model, **({} if pretrained else {"num_classes": classes}), **arguments)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise AllroundError(f"torchvision:{model} does not end in a linear layer; choose another architecture.")
    old = network.get_submodule(linear[-1])
    head = nn.Linear(old.in_features, classes, bias=old.bias is not None) if pretrained else old
    network.set_submodule(linear[-1], nn.Identity())
    return (nn.Sequential(ThreeChannels(), network) if shape[2] == 1 else network), head


class ThreeChannels(nn.Module):
    """Grey images for a network of colour ones."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)  # (n, 1, h, w) -> (n, 3, h, w)
