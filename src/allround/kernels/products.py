"""Vectors kept as factors: row i stands for the Kronecker product of row i of every factor, which is never formed.

The gradient of the loss of example i in the last layer's weights is q_i h_i^T, q = softmax - onehot (c,), h the
features (d,): c d numbers (768,000 for ImageNet's classes), though inner products need no more than the factors:

    <q_i h_i^T, q_j h_j^T> = (q_i . q_j) (h_i . h_j)

`factors` is a tuple of (n, d_f) matrices: (features,) for plain vectors, (residuals, features) for gradients.
"""

from __future__ import annotations

import torch

BLOCK = 1 << 22  # numbers in a temporary
# Relative to |a|^2 + |b|^2: what rounding in float32 leaves of the distance between equal vectors, with a margin.
EQUAL = 1e-6


def residuals(probabilities: torch.Tensor) -> torch.Tensor:
    """softmax - onehot(argmax), (b, c): the gradient of the loss in the logits, were the predicted class the label.

    The predicted class gets -(sum of the others): p - 1 would round to 0 for the examples that the model is sure of.
    """
    top = probabilities.argmax(1, keepdim=True)  # (b, 1)
    others = probabilities.scatter(1, top, 0.0)
    return others.scatter(1, top, -others.sum(1, keepdim=True))


def arithmetic(*factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Factors in the type that `dots` takes: 16 bits stay so on CUDA alone, which can sum their products in float32."""
    return tuple(factor if factor.is_cuda else factor.float() for factor in factors)


def unit(*factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Factors with rows of length 1, so that products are cosines; zero rows stay zero."""
    return tuple(torch.nn.functional.normalize(factor.float(), dim=1, eps=1e-30) for factor in factors)


def squared_norms(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """|x_i|^2, (n,) float64, in blocks: squares in float64 of all rows at once would be larger than the rows."""
    norms = torch.ones(len(factors[0]), dtype=torch.float64, device=factors[0].device)
    for factor in factors:
        step = max(1, BLOCK // 16 // factor.shape[1])
        for start in range(0, len(factor), step):
            norms[start : start + step] *= factor[start : start + step].double().square_().sum(1)
    return norms


def dots(factors: tuple[torch.Tensor, ...], row: torch.Tensor) -> torch.Tensor:
    """x_i . x_row for every i, (n,) float64; row: (1,) int64 on the device. One matrix-vector product a factor."""
    product = None
    for factor in factors:
        one = factor.index_select(0, row)[0]  # (d_f,)
        if factor.dtype == torch.float32:
            part = torch.mv(factor, one)
        else:  # in 16 bits, with the sum kept in float32
            part = torch.mm(factor, one[:, None], out_dtype=torch.float32)[:, 0]
        product = part.double() if product is None else product * part
    return product


def squared_distances(norms: torch.Tensor, norm: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """|a - b|^2 = |a|^2 + |b|^2 - 2 a.b, and exactly 0 for what rounding cannot tell from equal vectors.

    norms: (n,); norm: (1,) or (n,); products: (n,) a.b
    """
    total = norms + norm
    distance = torch.sub(total, products, alpha=2)
    return torch.where(distance > EQUAL * total, distance, 0.0)
