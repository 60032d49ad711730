"""A network in the spirit of CIFAR-10's speed records: high accuracy after few epochs, and from few labels.

Keller Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498): a first convolution that
whitens patches and is not trained, three groups of two convolutions that start as partial identities (Dirac), batch
normalisation whose biases alone are learned, GELU, logits scaled by 1/9. Its recipe (Nesterov SGD, 64 times the
learning rate for the biases of batch normalisation, one cycle, label smoothing 0.2) is, with a few changes, the
catalogue's entry `fast`.

The whitening is computed from the labelled training images: what the training sees, nothing else, in a fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 2  # side of the whitened patches
PIXELS = 2**18  # of one block of images whose patches are summed up, which bounds the memory


def build(
    shape: tuple[int, int, int], classes: int, *, width: int = 64, wide: int = 256, scale: float = 0.1111
) -> tuple[nn.Module, nn.Module]:
    """Groups of `width`, `wide` and `wide` channels; `wide` features; logits times `scale`."""
    whitened = 2 * shape[2] * PATCH**2
    whiten = nn.Conv2d(shape[2], whitened, PATCH)
    whiten.weight.requires_grad_(False)
    nn.init.zeros_(whiten.bias)
    groups = [_Group(a, b) for a, b in ((whitened, width), (width, wide), (wide, wide))]
    head = _ScaledLinear(wide, classes, bias=False)
    head.scale = scale
    return nn.Sequential(whiten, nn.GELU(), *groups, _Greatest()), head


def prepare(body: nn.Module, images: Tensor) -> None:
    """Set the first convolution to the whitening transform of the images' patches and its negative.

    images: (n, c, h, w) float32, normalised; the eigenvectors of the covariance of their patches, each divided by the
        root of its eigenvalue, are the filters
    """
    n, c, height, width = images.shape
    total = torch.zeros(c * PATCH**2, c * PATCH**2, dtype=torch.float64)
    for block in images.split(max(1, PIXELS // (height * width))):
        patches = block.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (b, c, h-1, w-1, 2, 2)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, c * PATCH**2).double()
        total += patches.T @ patches
    count = n * (height - PATCH + 1) * (width - PATCH + 1)
    values, vectors = torch.linalg.eigh(total / count)  # ascending; vectors in columns
    # the sign of an eigenvector is arbitrary: its entry of largest magnitude is made positive
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(-1, c, PATCH, PATCH)
    with torch.no_grad():
        body[0].weight.copy_(torch.cat((filters, -filters)))


class _Group(nn.Module):
    """Two 3x3 convolutions, the first followed by 2x2 max pooling, each by batch normalisation and GELU."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.conv1, self.norm1 = _conv(inside, outside), _norm(outside)
        self.conv2, self.norm2 = _conv(outside, outside), _norm(outside)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.gelu(self.norm1(F.max_pool2d(self.conv1(maps), 2)))
        return F.gelu(self.norm2(self.conv2(maps)))


def _conv(inside: int, outside: int) -> nn.Conv2d:
    conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:inside])  # the first channels pass their input on, the others start at random
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)  # PyTorch's momentum of 0.1: the record's 0.4 is for batches of 1,024
    norm.weight.requires_grad_(False)
    return norm


class _Greatest(nn.Module):
    """The maximum over positions; adaptive pooling's gradient would not be deterministic on CUDA."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).amax(2)  # (n, c, h, w) -> (n, c)


class _ScaledLinear(nn.Linear):
    scale: float

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.scale
