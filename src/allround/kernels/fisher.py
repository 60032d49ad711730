"""Which rows lower tr(M^-1 F) most, M = M_0 + the Fisher information of the rows picked: A-optimal design.

The Fisher information of row x about the weights of a linear layer is V V^T, V = U (x) h, h its features (d,) and
U (c, r) such that U U^T is the information about the logits. With A = M^-1 and B = A F A, adding (sign = 1) or taking
away (sign = -1) a row changes the trace, by the Woodbury identity, by

    gain = tr(L S^-1), S = K + sign I;     K = V^T A V, L = V^T B V, both (r, r)
    A' = A - W S^-1 W^T, B' = B - W S^-1 Y^T - Y S^-1 W^T + W S^-1 L S^-1 W^T,     W = A V, Y = B V

The authors of BAIT form V (c d x r) for all rows and compute K and L anew for every pick: O(n r (c d)^2). Here K and L
of all rows follow A and B by their products with W and Y, V is never formed, and a pick costs O(n r (c d + r^2) +
r (c d)^2). Memory O(n r^2 + (c d)^2). In float64, block by block: where a small ridge makes A large in the directions
that no row has yet, float32 loses K in all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from allround.kernels.greedy import greedy
from allround.kernels.products import BLOCK

KEPT = 1 << 25  # features, at most, that are kept in float64 (256 MB), so as not to be converted for every pick
Factors = tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, torch.Tensor]  # s (b, e) -> U (b, c, r); s; h


def information(factors: Factors) -> torch.Tensor:
    """The sum of V V^T over the rows, (c d, c d) float64."""
    total = None
    for u, h in _blocks(factors):
        weights = u @ u.mT  # (b, c, c)
        c, d = u.shape[1], h.shape[1]
        total = torch.zeros(c, d, c, d, dtype=torch.float64, device=h.device) if total is None else total
        for one in range(c):
            weighted = weights[:, one, :, None] * h[:, None, :]  # (b, c, d)
            total[one] += (h.T @ weighted.flatten(1)).view(d, c, d)
    return total.view(c * d, c * d)


def exchange(
    factors: Factors, a: torch.Tensor, b: torch.Tensor, k: int, sign: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows, of the n there are, that are best added (sign = 1) or taken away (sign = -1), greedily one by one.

    a, b: (c d, c d) float64, A and B; changed in place to those after all k
    Returns rows (k,) int64, all distinct, ties to the lower row, and by how much each lowered the trace (k,) float64.
    """
    make, sources, h = factors
    h = h.double() if h.numel() <= KEPT else h
    factors = make, sources, h
    inner, outer = _quadratic(factors, a), _quadratic(factors, b)  # (n, r, r) K and L
    r = inner.shape[1]
    unit = sign * torch.eye(r, dtype=torch.float64, device=h.device)

    def changes() -> torch.Tensor:  # (n,)
        rows = max(1, BLOCK // r**2)
        pairs = zip(inner.split(rows), outer.split(rows), strict=True)
        return torch.cat([(inverses(k_ + unit) * l_).sum((1, 2)) for k_, l_ in pairs])

    gains = changes()

    def update(row: torch.Tensor) -> None:
        u = make(sources.index_select(0, row).double())[0]  # (c, r)
        v = (u[:, None, :] * h.index_select(0, row).double().view(1, -1, 1)).flatten(0, 1)  # (c d, r)
        w, y, core = a @ v, b @ v, outer.index_select(0, row)[0]
        s = inverses(inner.index_select(0, row) + unit)[0]  # (r, r)
        ws, y2 = w @ s, y - 0.5 * w @ s @ core
        a.sub_(ws @ w.T)
        b.sub_(ws @ y2.T).sub_(y2 @ ws.T)
        both, first = torch.cat([w, y2], 1).view(len(u), -1, 2 * r).movedim(1, 0).flatten(1), 0  # (d, c 2 r)
        for ux, hx in _blocks(factors, 2 * r):
            here = slice(first, first := first + len(hx))
            shared = _product(ux.mT, (hx @ both).view(len(hx), -1, 2 * r))  # (b, r, 2 r)
            vw, vy = shared.split(r, 2)  # V^T W and V^T Y
            vws = _product(vw, s[None])
            cross = _product(vws, vy.mT)
            inner[here] -= _product(vws, vw.mT)
            outer[here] -= cross + cross.mT
        gains.copy_(changes())

    return greedy(gains, update, k, (inner, outer, a, b))


def inverses(matrices: torch.Tensor) -> torch.Tensor:
    """The inverses of definite matrices (n, r, r), by Gauss-Jordan steps, which look at nothing from the host."""
    out = matrices.clone()
    for j in range(out.shape[1]):
        pivot, row, column = out[:, j, j, None].clone(), out[:, j].clone(), out[:, :, j].clone()  # (n, 1), (n, r) twice
        row /= pivot
        out -= column[:, :, None] * row[:, None, :]
        out[:, j], out[:, :, j] = row, -column / pivot
        out[:, j, j] = 1 / pivot[:, 0]
    return out


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b of matrices (n, i, j) and (n, j, k); where j is 1, much faster without a product of each pair."""
    return a * b if a.shape[2] == 1 else a @ b


def _quadratic(factors: Factors, matrix: torch.Tensor) -> torch.Tensor:
    """V^T matrix V of every row, (n, r, r) float64; matrix: (c d, c d)."""
    parts = []
    for u, h in _blocks(factors):
        c, d = u.shape[1], h.shape[1]
        whole = matrix.view(c, d, c * d)
        logits = [torch.einsum("bcd,bd->bc", (h @ whole[one]).view(-1, c, d), h) for one in range(c)]
        parts.append(u.mT @ torch.stack(logits, 1) @ u)
    return torch.cat(parts)


def _blocks(factors: Factors, width: int | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """U (b, c, r) and h (b, d) of all rows in float64, in blocks that leave room for (b, c, width), else (b, c, d)."""
    make, sources, h = factors
    rows = max(1, BLOCK // (h.shape[1] + sources.shape[1] * (width or h.shape[1])))
    for some, x in zip(sources.split(rows), h.split(rows), strict=True):
        yield make(some.double()), x.double()
