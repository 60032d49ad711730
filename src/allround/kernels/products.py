"""Vectors kept as factors: row i stands for the Kronecker product of row i of every factor, which is never formed.

The gradient of the loss of example i in the last layer's weights is q_i h_i^T, q = softmax - onehot (c,), h the
features (d,): c d numbers (768,000 for ImageNet's classes), though inner products need no more than the factors:

    <q_i h_i^T, q_j h_j^T> = (q_i . q_j) (h_i . h_j)

`factors` is a tuple of (n, d_f) matrices: (features,) for plain vectors, (residuals, features) for gradients.
"""

from __future__ import annotations

import numpy as np
import torch

BLOCK = 1 << 22  # numbers in a temporary
TINY = torch.finfo(torch.float32).tiny
LONG = 32  # columns from which `matvec` goes by rows on a CPU
# Relative to |a|^2 + |b|^2: what rounding in float32 leaves of the distance between equal vectors, with a margin.
EQUAL = 1e-6
# Relative to the same: what a distance by a matrix product is off by at most, in whatever order it sums, TF32 excepted.
DOUBT = 1e-5


def residuals(probabilities: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """softmax - onehot(label), (b, c): the gradient of the loss in the logits; labels (b,), by default the predicted.

    The label's entry is -(sum of the others): p - 1 would round to 0 for the examples that the model is sure of.
    """
    label = probabilities.argmax(1, keepdim=True) if labels is None else labels[:, None]  # (b, 1)
    others = probabilities.scatter(1, label, 0.0)
    return others.scatter(1, label, -others.sum(1, keepdim=True))


def arithmetic(*factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Factors in the type that `dots` takes: 16 bits stay so on CUDA alone, which can sum their products in float32."""
    return tuple(factor if factor.is_cuda else factor.float() for factor in factors)


def unit(*factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Factors with rows of length 1, so that products are cosines; zero rows stay zero.

    Rows are brought to a largest entry of 1 first: squares of what is left where the model is sure would underflow.
    """
    return tuple(map(_unit, factors))


def _unit(factor: torch.Tensor) -> torch.Tensor:
    largest = torch.maximum(factor.amax(1, keepdim=True), -factor.amin(1, keepdim=True))  # |factor| would be a copy
    scaled = factor / largest.float().clamp(min=TINY)
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_(min=1))


def squared_norms(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """|x_i|^2, (n,) float64, in blocks: squares in float64 of all rows at once would be larger than the rows."""
    norms = torch.ones(len(factors[0]), dtype=torch.float64, device=factors[0].device)
    for factor in factors:
        step = max(1, (16 * BLOCK if factor.is_cuda else BLOCK // 16) // factor.shape[1])
        for start in range(0, len(factor), step):
            norms[start : start + step] *= factor[start : start + step].double().square_().sum(1)
    return norms


def dots(factors: tuple[torch.Tensor, ...], row: torch.Tensor) -> torch.Tensor:
    """x_i . x_row for every i, (n,) float64; row: (1,) int64 on the device. One matrix-vector product a factor."""
    product = None
    for factor in factors:
        one = factor.index_select(0, row)[0]  # (d_f,)
        if factor.dtype == torch.float32:
            part = matvec(factor, one)
        else:  # in 16 bits, with the sum kept in float32
            part = torch.mm(factor, one[:, None], out_dtype=torch.float32)[:, 0]
        product = part.double() if product is None else product * part
    return product


def matvec(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """matrix (n, d) times vector (d,), (n,), both float32.

    On a CPU, long rows are left to NumPy's einsum, which sums every row alike in one thread: on AMD, torch's BLAS (MKL)
    takes three times as long, and NumPy's does not know how many threads this job has.
    """
    if matrix.is_cuda or matrix.shape[1] < LONG:
        return torch.mv(matrix, vector)
    return torch.from_numpy(np.einsum("ij,j->i", matrix.numpy(), vector.numpy()))


def products(left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """x_i . y_j for every i of left and j of right, (a, b): float64 of float64 factors, else float32."""
    product = None
    for x, y in zip(left, right, strict=True):
        half = x.dtype in (torch.float16, torch.bfloat16)
        part = torch.mm(x, y.T, out_dtype=torch.float32) if half else torch.mm(x, y.T)
        product = part if product is None else product.mul_(part)
    return product


def row_products(left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """x_i . y_i for every i, (n,) float64, or x_i . y for a y of one row. Unlike a matrix product, the same for a row
    wherever it lies in a block."""
    product = None
    for x, y in zip(left, right, strict=True):
        part = (x.float() * y.float()).sum(1).double()
        product = part if product is None else product * part
    return product


def approached(
    nearest: torch.Tensor, norms: torch.Tensor, lengths: torch.Tensor, products: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that a centre may have come closer to than `nearest`, (r,), and the closest centre to each, (r,).

    nearest, norms: (b,) float64, squared distances to the nearest centre before, |x_i|^2
    lengths: (a,) |c_j|^2; products: (b, a) float32 x_i . c_j, overwritten

    A matrix product finds the centre, and a row that it leaves in doubt is among the rows (where centre j has come
    closer, |c_j|^2 <= 2 |x_i|^2 + 2 nearest_i): the distance itself is for the caller to compute row by row.
    """
    least, centre = torch.add(lengths.float(), products, alpha=-2, out=products).min(1)
    rows = (least + norms * (1 - 3 * DOUBT) < nearest * (1 + 2 * DOUBT)).nonzero()[:, 0]
    return rows, centre.index_select(0, rows)


def those(factor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The given rows of a factor; without a copy where they are all of its rows, in order."""
    return factor if len(rows) == len(factor) else factor.index_select(0, rows)


def squared_distances(norms: torch.Tensor, norm: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """|a - b|^2 = |a|^2 + |b|^2 - 2 a.b, and exactly 0 for what rounding cannot tell from equal vectors.

    norms, norm, products: |a|^2, |b|^2 and a.b, of shapes that broadcast
    """
    total = norms + norm
    distance = torch.sub(total, products, alpha=2)
    return torch.where(distance > EQUAL * total, distance, 0.0)
