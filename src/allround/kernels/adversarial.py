"""How far images have to be moved until a classifier predicts another class, all images of a block at once.

Foolbox and ART attack batches too, yet keep every image in the batch until the last one is done, and bring a second
model interface each; what a query needs is the loop below. Images that have changed class leave the batch. Distances
count pixels as 0..1, whatever the images are normalised by.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from allround.learners.model import Classifier

# (logits (b, c), the classes that were most likely at first (b, k), best first, a function that gives the gradient of a
# sum over images with respect to the pixels that may rise or fall with it (b, ch, h, w)) -> the next step (b, ch, h, w)
Move = Callable[[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]


def until_flipped(
    model: Classifier,
    images: torch.Tensor,
    limits: tuple[torch.Tensor, torch.Tensor],
    move: Move,
    *,
    steps: int,
    classes: int = 1,
    overshoot: float = 0.0,
) -> torch.Tensor:
    """The L2 distance to where the prediction changes, infinite where it did not, and the margin: (b, 2) float64.

    images: (b, ch, h, w) normalised; limits: the normalised values of pixels 0 and 255, (ch, 1, 1) each, which no pixel
        leaves; where they are infinite, nothing is clipped and distances are those of the values themselves
    move: the method, see Move; k is `classes`
    overshoot: images are probed that much further out than the steps lead
    """
    low, high = limits
    span = torch.where((high - low).isfinite(), high - low, 1.0)
    # Clipping bounds the way, not the image: differences of images would lose the digits of a short way.
    down, up = ((low - images) / span).clamp(max=0), ((high - images) / span).clamp(min=0)  # (b, ch, h, w)
    with torch.no_grad():
        logits = model(images)
    label, top = logits.argmax(1), logits.sort(dim=1, descending=True, stable=True).indices[:, :classes]
    way, distance = torch.zeros_like(images), torch.full(label.shape, torch.inf, device=images.device)
    left = torch.arange(len(images), device=images.device)  # rows that have not changed class

    def probed(rows: torch.Tensor) -> torch.Tensor:
        return torch.clamp((1 + overshoot) * way[rows], down[rows], up[rows])

    for _ in range(steps if logits.shape[1] > 1 else 0):
        out = probed(left)
        with torch.enable_grad():
            here = (images[left] + out * span).requires_grad_()

            def gradient(total: torch.Tensor, here=here, out=out, rows=left) -> torch.Tensor:
                slope = torch.autograd.grad(total, here, retain_graph=True)[0] * span
                # A pixel at its limit cannot follow: counted in, it makes steps so short that they never arrive.
                stuck = ((out >= up[rows]) & (slope > 0)) | ((out <= down[rows]) & (slope < 0))
                return slope.masked_fill(stuck, 0)

            step = move(model(here), top[left], gradient)
        way[left] = torch.clamp(way[left] + step, down[left], up[left])
        out = probed(left)
        with torch.no_grad():
            flipped = model(images[left] + out * span).argmax(1) != label[left]
        distance[left[flipped]] = out[flipped].flatten(1).norm(dim=1)
        left = left[~flipped]
        if not len(left):
            break
    likely = logits.softmax(1).sort(dim=1, descending=True).values[:, :2]
    return torch.stack([distance, likely[:, 0] - likely[:, 1:].sum(1)], 1).double()


def nearest_first(found: torch.Tensor) -> torch.Tensor:
    """One score of the (n, 2) of until_flipped: the distance; above all of these, by margin, what never flipped."""
    distance, margin = found.unbind(1)
    beyond = torch.where(distance.isfinite(), distance, 0.0).amax() + 1 + margin
    return torch.where(distance.isfinite(), distance, beyond)
