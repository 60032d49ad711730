"""Matching pursuit: few gradients whose weighted sum comes near a target, all kept as factors.

Gradient i is g_i = q_i [h_i, 1]^T, of the loss in the last layer's weights and bias. What is left to match is a matrix
R (c, d + 1), and <g_i, R> = q_i . R [h_i, 1] is one matrix product for all i: no n x (c d) gradients.

Orthogonal matching pursuit (Pati et al. 1993) takes the gradient that points along R most, then fits all weights anew.
scikit-learn's has no weights >= 0 and wants the vectors whole. scipy.optimize.nnls (Lawson & Hanson 1974) has them, on
the CPU alone and from nothing for every pick: O(k^3) a pick. Ours starts the active set of a pick from the one before,
which one gradient joined, and keeps the inverse of its Gram matrix: O(k^2) a pick, by masks on the device. A step is
one move of the active set (a weight reached 0, a weight came back) or, where the weights fit, one pick.
"""

from __future__ import annotations

import torch

from allround.kernels.greedy import greedy
from allround.kernels.products import BLOCK, arithmetic, dots, squared_norms
from allround.kernels.repeat import repeat

MATCHED = 1e-6  # |R| / |target|, and the cosine of g and R, that count as 0: what float32 products leave
MOVES = 64  # of the active set for one pick, after which a weight that reached 0 stays there until the next
DEPENDENT = 1e-10  # the part of |g|^2 outside the span of the active set that counts as none


def along(q: torch.Tensor, h: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """<g_i, matrix> for every i, (n,) float64; q: (n, c), h: (n, d), matrix: (c, d + 1)."""
    weight, bias = matrix[:, :-1].T.float(), matrix[:, -1].float()
    rows = max(1, BLOCK // (q.shape[1] + h.shape[1]))
    blocks = zip(q.split(rows), h.split(rows), strict=True)
    return torch.cat([torch.addmm(bias, x.float(), weight).mul_(r).sum(1).double() for r, x in blocks])


def mean_gradient(q: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The mean of g_i, (c, d + 1) float64."""
    total = torch.zeros(q.shape[1], h.shape[1] + 1, dtype=torch.float64, device=q.device)
    rows = max(1, BLOCK // (q.shape[1] + h.shape[1]))
    for r, x in zip(q.split(rows), h.split(rows), strict=True):
        total[:, :-1] += r.T @ x.float()
        total[:, -1] += r.sum(0)
    return total / max(1, len(q))


def fixed_weights(q: torch.Tensor, h: torch.Tensor, target: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedily, the k rows with the least |sum of g - target|: rows (k,) int64 and the fall of its square (k,) float64.

    q: (n, c); h: (n, d); target: (c, d + 1). The fall 2 <g_i, R> - |g_i|^2 follows a pick j by -2 <g_i, g_j>.
    """
    q, h = arithmetic(q, h)
    norms = squared_norms((q,)) * (squared_norms((h,)) + 1)  # (n,)
    falls = 2 * along(q, h, target) - norms

    def update(row: torch.Tensor) -> None:
        falls.sub_(dots((q, h), row) + dots((q,), row), alpha=2)

    return greedy(falls, update, k)


def orthogonal(
    q: torch.Tensor, h: torch.Tensor, target: torch.Tensor, k: int, ridge: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of orthogonal matching pursuit with weights w >= 0, k <= n, for |sum w g - target|^2 + ridge |w|^2.

    q: (n, c) float32; h: (n, d); target: (c, d + 1)
    Returns rows (k,) int64, all distinct, ties to the lower row, and <g, R> of each when it was picked (k,) float64.
    Where nothing points along R any more (R is 0, or no weight >= 0 would lower it), the rest are the rows that point
    along the target most, with a score of 0. Memory O(k^2 + k (c + d)) on top of the inputs.
    """
    device, double = q.device, {"dtype": torch.float64, "device": q.device}
    lengths = (squared_norms((q,)) * (squared_norms((h,)) + 1)).sqrt_()  # (n,)
    first, size = along(q, h, target), target.norm()  # (n,)
    rows, count = torch.zeros(k, dtype=torch.int64, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    scores, weights, wanted = torch.zeros(k, **double), torch.zeros(k, **double), torch.zeros(k, **double)
    picked_q, picked_h = torch.zeros(k, q.shape[1], **double), torch.zeros(k, h.shape[1] + 1, **double)
    gram, inverse = torch.zeros(k, k, **double), torch.zeros(k, k, **double)  # inverse of gram[active][:, active]
    active, barred = torch.zeros(k, dtype=torch.bool, device=device), torch.zeros(k, dtype=torch.bool, device=device)
    taken, moves = torch.zeros(len(q), dtype=torch.bool, device=device), torch.zeros_like(count)
    place, products = torch.arange(k, device=device), torch.zeros(len(q), **double)

    def solve(right: torch.Tensor) -> torch.Tensor:  # gram[active][:, active] x = right, 0 elsewhere; refined once
        x = (inverse @ (right * active)) * active
        return x + (inverse @ ((right - gram @ x) * active)) * active

    def step() -> None:
        fit = solve(wanted)
        below = active & (fit <= 0)
        leaves = below.any()
        way = torch.where(below, weights / (weights - fit), torch.inf)
        leaver = way.argmin().view(1)
        stop = torch.where(leaves, way.index_select(0, leaver), 1.0)
        still = leaves & ((stop <= 0) | (moves > MOVES))  # rounding lets it in and out: not before the next pick
        barred.index_copy_(0, leaver, barred.index_select(0, leaver) | still)
        weights.lerp_(fit, stop).masked_fill_(leaves & (place == leaver), 0)

        dual = torch.where((place < count) & ~active & ~barred, wanted - gram @ weights, -torch.inf)  # (k,)
        back = dual.argmax().view(1)
        norm = gram.diagonal().index_select(0, back).clamp(min=0).sqrt()
        returns = ~leaves & (dual.index_select(0, back) > MATCHED**2 * size * norm)
        picks = ~leaves & ~returns & (count < k)  # (1,)

        left = target - (picked_q * weights[:, None]).T @ picked_h  # (c, d + 1) = R
        if picks.is_cuda or picks:
            products.copy_(along(q, h, left))
        some = (products > MATCHED * lengths * left.norm()) & (left.norm() > MATCHED * size) & ~taken
        found = some.any()
        row = torch.where(found, torch.where(some, products, -torch.inf), first.masked_fill(taken, -torch.inf))
        row = row.argmax().view(1)
        slot = count.clamp(max=k - 1)
        put(rows, slot, row, picks)
        put(scores, slot, products.index_select(0, row) * found, picks)
        put(picked_q, slot, q.index_select(0, row).double(), picks)
        put(picked_h, slot, torch.nn.functional.pad(h.index_select(0, row).double(), (0, 1), value=1.0), picks)
        put(taken, row, torch.ones_like(picks), picks)
        put(wanted, slot, (picked_q[slot] @ target * picked_h[slot]).sum(1), picks)
        column = (picked_q @ picked_q[slot][0]) * (picked_h @ picked_h[slot][0]) + ridge * (place == slot)  # (k,)
        put(gram, slot, column[None], picks)
        put(gram.T, slot, column[None], picks)

        # a gradient that joins the active set borders its Gram matrix; one that leaves takes its row and column away
        joins = torch.where(returns, back, slot)
        column = gram.index_select(0, joins)[0]  # (k,)
        border = solve(column)
        outside = column.index_select(0, joins) - (column * border * active).sum()  # (1,)
        free = outside > DEPENDENT * column.index_select(0, joins)
        enters = (returns | (picks & found)) & free
        barred.copy_((barred | (returns & ~free & (place == joins))) & ~picks)
        change = torch.where(leaves, inverse.index_select(0, leaver)[0], border - (place == joins).double())
        depth = torch.where(leaves, -inverse.diagonal().index_select(0, leaver), outside)
        inverse.addcmul_(change[:, None], (change / depth * (leaves | enters)).nan_to_num(0, 0, 0)[None])
        active.copy_((active & ~(leaves & (place == leaver))) | (enters & (place == joins)))
        moves.copy_(torch.where(picks, 0, moves + 1))
        count.add_(picks)

    state = (rows, count, scores, weights, wanted, picked_q, picked_h, gram, inverse, active, barred, taken, moves)
    repeat(step, (*state, products), done=lambda: int(count) == k)
    return rows, scores


def put(whole: torch.Tensor, place: torch.Tensor, value: torch.Tensor, on: torch.Tensor) -> None:
    """whole[place] = value where `on`; place: (1,) on the device."""
    old = whole.index_select(0, place)
    whole.index_copy_(0, place, torch.where(on.view(-1, *[1] * (whole.dim() - 1)), value.to(whole.dtype), old))
