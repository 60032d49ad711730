"""Set functions whose greedy gains are cheap: graph cut, coverage of a query set, concave over modular.

`factors` are (n, d_f) each, see allround.kernels.products; similarities are cosines, or given as a matrix to a small
set. apricot and submodlib keep an n x n matrix for graph cut, on the CPU; here a pick costs O(n d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from allround.kernels.facility_location import facility_location
from allround.kernels.greedy import greedy
from allround.kernels.neighbours import blocks
from allround.kernels.products import BLOCK, DOUBT, EQUAL, dots, matvec, squared_norms, unit
from allround.kernels.repeat import repeat, threads_for

TIE = 1e-6  # gains closer than this may be rounding
RENEWED = 32  # gains that a step of concave_coverage computes
SHORTLIST = 16  # on a CPU it looks at one row in so many, those of the largest bounds, for as long as that is enough

# name -> psi(t + x) - psi(t) for t, x >= 0, in a form that loses no digits where t is large
CONCAVE = {
    "log": lambda t, x: _log1p(x / (1 + t)),  # psi(t) = log(1 + t)
    "sqrt": lambda t, x: x / ((t + x).sqrt() + t.sqrt()).clamp_(min=1e-30),
    "inverse": lambda t, x: x / ((1 + t) * (1 + t + x)),  # psi(t) = 1 - 1 / (1 + t)
}
SLOPE = {"log": lambda t: 1 / (1 + t), "sqrt": lambda t: 0.5 * t.rsqrt(), "inverse": lambda t: (1 + t) ** -2}  # psi'


def _log1p(x: torch.Tensor) -> torch.Tensor:
    """log(1 + x). torch takes 10 times as long as NumPy on a CPU with AVX-512."""
    return x.log1p() if x.is_cuda else torch.from_numpy(np.log1p(x.numpy()))


def total_similarity(factors: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """sum_i x_j . y_i of every row j of factors over the rows i of others, (n,) float64. At most two factors.

    The rows y sum up to one (d_1, d_2) matrix. In float64: sums over a million rows are held against similarities to
    single rows.
    """
    total = sum(a.T @ b for _, a, b in _pairs(others))  # (d_1, d_2), with one factor (d_1, 1)
    out = torch.empty(len(factors[0]), dtype=torch.float64, device=factors[0].device)
    for here, a, b in _pairs(factors):
        out[here] = (a @ total).mul_(b).sum(1)
    return out


def _pairs(factors: tuple[torch.Tensor, ...]) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Two factors, the second of them 1 where there is one alone, in float64, block by block."""
    first, second = factors if len(factors) == 2 else (factors[0], factors[0].new_ones(len(factors[0]), 1))
    step = max(1, BLOCK // 4 // max(first.shape[1], second.shape[1]))
    for start in range(0, max(1, len(first)), step):
        here = slice(start, start + step)
        yield here, first[here].double(), second[here].double()


def similarities(factors: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> torch.Tensor:
    """x_i . y_j of every row of factors and of others, (n, s): for small sets of others."""
    product = factors[0] @ others[0].T
    step = max(1, BLOCK // len(others[0]))
    for factor, other in zip(factors[1:], others[1:], strict=True):
        for start in range(0, len(factor), step):  # the whole product of a factor would be as large as the result
            product[start : start + step] *= factor[start : start + step] @ other.T
    return product


def disparity(factors: tuple[torch.Tensor, ...], lengths: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """1 - cosine of every row to one, (n,) float64, for factors of unit length; 0 for zero rows (without a direction).

    lengths: (n,) 1, and 0 of zero rows; row: (1,). What rounding cannot tell from 0 is 0.
    """
    distance = lengths * lengths.index_select(0, row) - dots(factors, row)
    return torch.where(distance > EQUAL, distance, 0.0)


def tie_break(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """(n,) of 0 to TIE, to be added to gains: the more, the less a row is like all rows; 0 for zero rows.

    Diversity functions leave the first pick open, and tie wherever vectors are orthogonal (features after a ReLU often
    are): this takes the most unusual, in whatever order the rows lie. factors: of unit length
    """
    apart = -total_similarity(factors, factors)
    lowest, highest = apart.aminmax()
    return TIE * squared_norms(factors) * (apart - lowest) / (highest - lowest).clamp(min=1e-30)


def graph_cut(
    factors: tuple[torch.Tensor, ...], k: int, trade_off: float, penalty: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy for f(S) = sum over i, j in S of s_ij, i of all rows, - trade_off * sum over i, j both in S of s_ij
    - sum over j in S of penalty_j, s = cosine.

    penalty: (n,) or None. Returns rows (k,) int64 and gains (k,) float64; gains may be negative.
    """
    factors = unit(*factors)
    gains = total_similarity(factors, factors) - trade_off * squared_norms(factors)
    if penalty is not None:
        gains -= penalty

    def update(row: torch.Tensor) -> None:
        gains.sub_(dots(factors, row), alpha=2 * trade_off)

    return greedy(gains, update, k)


def covering(
    factors: tuple[torch.Tensor, ...], k: int, preference: torch.Tensor, **bounds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Facility location within bounds (n,), where ties go to the row with the higher preference (n,).

    Bounds saturate: two rows that cover each other gain the same, and once all is covered, every row gains 0.
    """
    order = preference.sort(stable=True, descending=True).indices  # (n,), as ties go to the lower row
    factors, bounds = tuple(factor[order] for factor in factors), {name: bound[order] for name, bound in bounds.items()}
    rows, gains = facility_location(factors, k, **bounds)
    kept = gains > 1e-6 * gains[:1]  # what is less is rounding
    free = torch.ones_like(preference, dtype=torch.bool).index_fill_(0, rows[kept], False).nonzero()[:, 0]
    rows = torch.cat([rows[kept], free[: k - int(kept.sum())]])
    return order[rows], torch.where(kept, gains, 0.0)


def query_coverage(similarity: torch.Tensor, k: int, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy for f(S) = sum over queries q of max over j in S of s_jq + eta * sum over j in S of max over q of s_jq.

    similarity: (n, q), not negative. Returns rows (k,) int64 and gains (k,) float64.
    """
    own = eta * similarity.amax(1).double()  # (n,)
    best = torch.zeros_like(similarity[0])  # (q,) of every query, to its nearest pick
    gains = own + similarity.sum(1)
    step = max(1, BLOCK // similarity.shape[1])

    def update(row: torch.Tensor) -> None:
        torch.maximum(best, similarity.index_select(0, row)[0], out=best)
        for start in range(0, len(gains), step):
            block = similarity[start : start + step]
            gains[start : start + step] = own[start : start + step] + (block - best).clamp_(min=0).sum(1)

    return greedy(gains, update, k, (best,))


def concave_over_modular(
    similarity: torch.Tensor, k: int, eta: float, concave: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy for f(S) = eta * sum over j in S of psi(sum over q of s_jq) + sum over q of psi(sum over j in S of s_jq).

    similarity: (n, q), not negative; concave: psi, a name of CONCAVE. Returns rows (k,) int64, gains (k,) float64.
    """
    sums = similarity.sum(1)  # (n,)
    own = eta * CONCAVE[concave](torch.zeros_like(sums), sums).double()
    return concave_coverage(similarity, k, concave, own)


def concave_coverage(
    values: torch.Tensor, k: int, concave: str, own: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy for f(S) = sum over columns c of psi(sum over j in S of values_jc) + sum over j in S of own_j.

    values: (n, c), not negative; own: (n,) or None. Returns rows (k,) int64 and gains (k,) float64.

    Lazy and exact (Minoux 1978): a gain of earlier bounds the gain now, and so does the tangent of psi at t_c + a_c,
        gain_j <= sum over c of psi(t_c + a_c) - psi(t_c) + psi'(t_c + a_c) (values_jc - a_c),   t the sums over S,
    which one matrix-vector product gives for many rows, the closer the larger t is. a are the means of the columns. A
    step lowers the bounds, renews the largest by the gains themselves, and picks the largest if that is a gain.
    """
    n, device, rise = len(values), values.device, CONCAVE[concave]
    totals = torch.zeros_like(values[0])  # (c,) t
    usual = values.mean(0).clamp_(min=1e-3)  # (c,) a; at 0 the slope may be infinite
    own = torch.zeros(n, dtype=torch.float64, device=device) if own is None else own
    bounds = own.clone()
    for here in blocks(n, values.shape[1], device):
        bounds[here] += rise(totals, values[here]).sum(1)
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    gains = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def lower(some: torch.Tensor, own: torch.Tensor, bounds: torch.Tensor) -> None:
        steep, up = SLOPE[concave](totals + usual), rise(totals, usual)
        level = ((1 + DOUBT) * up - usual * steep).sum()  # with what rounding may take off
        torch.minimum(bounds, matvec(some, (1 + DOUBT) * steep).add_(level) + own, out=bounds)

    def pick(listed: torch.Tensor, others: torch.Tensor) -> None:
        """Pick from the rows `listed`, ascending, while they gain more than `others` (1,), the bound of the rest."""
        whole = len(listed) == n
        some, theirs, upper = values, own, bounds
        if not whole:
            some, theirs, upper = (part.index_select(0, listed) for part in (values, own, bounds))

        def step() -> None:
            lower(some, theirs, upper)
            candidates = upper.topk(min(len(upper), RENEWED)).indices  # (r,)
            candidates[-1:] = upper.argmax()  # topk may leave out the first of many equals, which is the one to pick
            picked = upper.index_select(0, candidates) == -torch.inf
            fresh = theirs.index_select(0, candidates) + rise(totals, some.index_select(0, candidates)).sum(1)
            upper.index_copy_(0, candidates, fresh.masked_fill_(picked, -torch.inf))
            row = upper.argmax().view(1)
            value = upper.index_select(0, row)
            commit = (candidates == row).any() & (count < k) & (value > others)  # (1,)
            slot = count.clamp(max=k - 1)
            rows.index_copy_(0, slot, torch.where(commit, listed.index_select(0, row), rows.index_select(0, slot)))
            gains.index_copy_(0, slot, torch.where(commit, value, gains.index_select(0, slot)))
            totals.add_(some.index_select(0, row)[0] * commit)
            upper.index_copy_(0, row, value.masked_fill_(commit, -torch.inf))
            count.add_(commit)

        def done() -> bool:
            return int(count) == k or not (whole or bool(upper.amax() > others))

        with threads_for(len(listed)):
            repeat(step, (upper, rows, gains, count, totals), done=done)
        if not whole:
            bounds[listed] = upper

    # A GPU passes over all rows faster than it would look back; a CPU keeps to a list that fits its cache.
    width = n if values.is_cuda else max(RENEWED, n // SHORTLIST)
    while (before := int(count)) < k:
        if width >= n:
            pick(torch.arange(n, device=device), torch.full_like(bounds[:1], -torch.inf))
            continue
        lower(values, own, bounds)
        best = bounds.topk(width + 1)
        pick(best.indices[:-1].sort().values, best.values[-1:])
        if int(count) == before:  # what is not listed may gain as much
            width *= 2
    return rows, gains
