"""torchvision's ResNet-18 with the stem for 32 x 32 images: 3x3 convolution of stride 1, no max pooling.

He et al. 2016, section 4.2 (the CIFAR stem); with it the four stages see 32, 16, 8 and 4 pixels a side.
"""

from __future__ import annotations

from torch import nn


def build(shape: tuple[int, int, int], classes: int) -> tuple[nn.Module, nn.Module]:
    """512 features."""
    from torchvision.models import resnet18  # 2 s to import: paid by the learners that need it

    body = resnet18(num_classes=classes)
    body.conv1 = nn.Conv2d(shape[2], 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    body.maxpool = nn.Identity()
    head, body.fc = body.fc, nn.Identity()
    return body, head
