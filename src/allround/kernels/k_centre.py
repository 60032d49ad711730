"""Greedy k-centre (Gonzalez 1985): again and again the vector farthest from all centres, a 2-approximation of the
optimum. Many picks in one pass over the rows.

Neither scikit-learn nor scipy has it. A pick a pass would be the obvious form. But distances to the nearest centre only
fall as centres are added, so that those of the last pass bound those of now: with exact distances for the m farthest
rows of the last pass, the farthest of these is the farthest of all as long as it comes before the (m + 1)-th. So the
picks are exactly the greedy ones. Then one pass brings all rows up to date, by matrix products.
Memory O(n) beside the rows, which may lie in a file; never n x n, nor n x (number of centres).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from allround.kernels.products import EQUAL, approached, products, those
from allround.kernels.rows import Rows, as_rows, block_bytes, candidates, parts, room

CENTRES = 4096  # in one matrix product


def k_centre(vectors: Rows | torch.Tensor, centres: Rows | torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows that the greedy algorithm adds to the centres that are there.

    vectors: n rows, k <= n; centres: m >= 0 rows. Without centres the first pick is the vector nearest to the mean.
    Returns rows (k,) int64, all distinct, ties to the lower row, and the distance of each to the nearest centre
    before it (k,) float64 (the first of an empty set of centres: to the mean).
    """
    vectors, centres = as_rows(vectors), as_rows(centres)
    n, device = vectors.n, vectors.device
    # Products lose the digits that all vectors share: they are taken between differences to a vector in their middle.
    middle = _mean(centres if centres.n else vectors)
    nearest = torch.full((n,), torch.inf, dtype=torch.float64, device=device)  # squared distances; -1 once chosen
    rows, scores, kept = [], [], 0
    if centres.n:
        for some in _in_memory(centres):
            _approach(vectors, nearest, middle, some)
    else:
        new = (lengths := _lengths(vectors, middle)).argmin().view(1)
        rows, scores, kept = [new], [lengths[new]], 1
        if k > 1:
            _approach(vectors, nearest, middle, vectors.take(new)[0])
            nearest[new] = -1
    while kept < k:
        far, bound = _farthest(nearest, min(n - kept, candidates(n)))  # (m,)
        (some,) = vectors.take(far)
        stale = nearest[far].cpu().numpy()
        chosen, score = _greedy(far.cpu().numpy(), stale, _between(some, middle), bound, k - kept)
        chosen = torch.from_numpy(chosen).to(device)
        new, kept = far[chosen], kept + len(chosen)
        rows.append(new)
        scores.append(torch.from_numpy(score).to(device))
        if kept < k:
            _approach(vectors, nearest, middle, some[chosen])
            nearest[new] = -1  # below every distance: copies of a centre (0) are left, the centre is not
    return torch.cat(rows), torch.cat(scores).sqrt()


def _mean(vectors: Rows) -> torch.Tensor:
    total = sum(block.sum(0, dtype=torch.float32).double() for _, (block,) in vectors.blocks())
    return (total / vectors.n).float()  # (d,)


def _lengths(vectors: Rows, middle: torch.Tensor) -> torch.Tensor:
    """Squared distance of every vector to the middle, (n,) float64."""
    lengths = torch.empty(vectors.n, dtype=torch.float64, device=vectors.device)
    for here, block in _parts(vectors, 1):
        lengths[here] = _squares(block - middle)
    return lengths


def _squares(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.square().sum(1).double()  # (b,)


def _in_memory(centres: Rows) -> Iterator[torch.Tensor]:
    """Centres, all at once if an eighth of the memory left holds them: each part costs a pass over the vectors."""
    most, some, size = max(room(centres.device) / 8, 4 * block_bytes(centres.device)), [], 0
    for _, (block,) in centres.blocks():
        some.append(block)
        size += block.numel() * block.element_size()
        if size > most:
            yield torch.cat(some)
            some, size = [], 0
    if some:
        yield torch.cat(some)


def _farthest(nearest: torch.Tensor, m: int) -> tuple[torch.Tensor, tuple[float, int]]:
    """The first m rows by falling distance, then by row, in ascending order, and the (distance, -row) of the next."""
    if m == len(nearest):
        return torch.arange(m, device=nearest.device), (-np.inf, 0)
    least = nearest.topk(m + 1).values[-1]
    above, level = (nearest > least).nonzero()[:, 0], (nearest == least).nonzero()[:, 0]
    level = level[: m + 1 - len(above)]
    return torch.cat([above, level[:-1]]).sort().values, (float(least), -int(level[-1]))


def _between(vectors: torch.Tensor, middle: torch.Tensor) -> np.ndarray:
    """Squared distances among candidates, (m, m) on the host. In float64, where the middle need not be subtracted."""
    vectors = vectors.double()
    norms, lengths = vectors.square().sum(1), (vectors - middle).square().sum(1)
    distance = norms[:, None] + norms - 2 * products((vectors,), (vectors,))
    return _or_zero(distance, lengths[:, None] + lengths).cpu().numpy()


def _or_zero(distance: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Exactly 0 for what rounding in float32 cannot tell from equal vectors."""
    return torch.where(distance > EQUAL * total, distance, 0.0)


def _greedy(
    rows: np.ndarray, stale: np.ndarray, distance: np.ndarray, bound: tuple[float, int], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates are the next greedy picks, in order, and the squared distance of each when it was picked."""
    now, kept, scores = stale.copy(), [], []
    while len(kept) < most:
        i = int(now.argmax())  # of equals the first, and rows ascend
        if (now[i], -rows[i]) < bound:
            break
        kept.append(i)
        scores.append(now[i])
        np.minimum(now, distance[i], out=now)
        now[i] = -1
    return np.array(kept), np.array(scores)


def _approach(vectors: Rows, nearest: torch.Tensor, middle: torch.Tensor, centres: torch.Tensor) -> None:
    """One pass: bring `nearest` up to date with new centres (a, d)."""
    split = [(some, away := some.float() - middle, _squares(away)) for some in centres.split(CENTRES)]
    for here, block in _parts(vectors, min(len(centres), CENTRES)):
        from_middle = block - middle
        norms = _squares(from_middle)
        for some, away, lengths in split:
            rows, centre = approached(nearest[here], norms, lengths, products((from_middle,), (away,)))
            right = some if len(some) == 1 else some.index_select(0, centre)
            distance = _or_zero(_squares(those(block, rows) - right.float()), norms[rows] + lengths[centre])
            nearest[here][rows] = torch.minimum(nearest[here][rows], distance)


def _parts(vectors: Rows, columns: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """One pass in parts, in float32, whose products with `columns` rows are of a bounded size."""
    for place, (block,) in vectors.blocks():
        for part in parts(len(block), max(columns, block.shape[1]), vectors.device):
            yield slice(place.start + part.start, place.start + part.stop), block[part].float()
