"""Any classifier of timm, as "timm:<name>"; the learner's arguments go to `timm.create_model`.

timm's own API separates the classifier from the features and adapts the first layer to the number of channels.
`pretrained: true` starts from pretrained weights (downloaded once) with a new head; `img_size` sets the image size of
those models that are built for one (vision transformers).
"""

from __future__ import annotations

from difflib import get_close_matches

from torch import nn

from allround.errors import AllroundError


def check(model: str) -> None:
    """AllroundError: not a model of timm."""
    import timm  # 3 s to import: paid by the learners that need it

    if not timm.is_model(model.partition(".")[0]):  # a tag of pretrained weights may follow
        near = get_close_matches(model, timm.list_models(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise AllroundError(f"unknown timm model '{model}'.{hint} Allowed: the names in timm.list_models().")


def build(shape: tuple[int, int, int], classes: int, *, model: str, **arguments: object) -> tuple[nn.Module, nn.Module]:
    """AllroundError: not a model of timm, or one whose classifier is not one linear layer."""
    import timm

    check(model)
    network = timm.create_model(model, num_classes=classes, in_chans=shape[2], **arguments)
    head = network.get_classifier()
    if not isinstance(head, nn.Linear):
        raise AllroundError(f"timm:{model} does not end in one linear layer; choose another architecture.")
    network.reset_classifier(0)  # from now on its output is what went into the classifier
    return network, head
