"""Exact nearest neighbours by squared Euclidean distance, on the device of the vectors.

scikit-learn's NearestNeighbors runs on the CPU alone, and FAISS' wheels are built for certain versions of CUDA, not for
those of torch; neither breaks ties by the row, so that CPU and GPU would differ on copies. Hence ours: blocks of
distances from matrix products, the best of each block merged with the best so far. No n x n matrix.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from allround.kernels.products import BLOCK, DOUBT, EQUAL

WIDTH = 8192  # vectors that one block of queries is compared with at a time
GROUP = 64  # columns in a group: see least_keys
LARGE = BLOCK // 2  # numbers in a block on the CPU: a product with few rows takes twice as long for each


def nearest(
    queries: torch.Tensor, vectors: torch.Tensor, k: int, *, exclude_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of `vectors` for every query, nearest first, ties to the lower row.

    queries: (q, d); vectors: (n, d)
    exclude_self: the queries are the vectors, and no row is its own neighbour
    Returns squared distances (q, k) float32 and rows (q, k) int64; fewer columns where there are fewer than k rows.
    Memory O(q k) beside a block; time O(q n d).
    """
    (q, d), n, device = queries.shape, len(vectors), queries.device
    k = min(k, n - exclude_self)
    mean = vectors.mean(0, dtype=torch.float32) if n else torch.zeros(d, device=device)
    keys = torch.empty(q, 0, dtype=torch.int64, device=device)
    for first in range(0, n, WIDTH):
        some = beside(vectors[first : first + WIDTH] - mean)  # (w, d + 2) float32
        columns = torch.arange(first, first + len(some), device=device)
        merged = torch.empty(q, min(k, keys.shape[1] + len(some)), dtype=torch.int64, device=device)
        for here in blocks(q, len(some), device, LARGE):
            distances = products(queries[here] - mean, some)  # (b, w)
            if exclude_self:
                own = torch.arange(q, device=device)[here, None] == columns
                distances.masked_fill_(own, torch.inf)
            found = least_keys(distances, columns, k)
            both = torch.cat([keys[here], found], 1) if first else found
            merged[here] = smallest(both, merged.shape[1])
        keys = merged
    return unpack(keys.sort(1).values)


def mean_of_nearest(queries: torch.Tensor, vectors: torch.Tensor, k: int, values: torch.Tensor) -> torch.Tensor:
    """The mean, over the k nearest rows of `vectors` (n, d), of their rows of `values` (n, v): (q, v) float32.

    Which rows they are, `nearest` says; but sorting takes longer than the distances. So the rows within the k-th
    distance become a matrix of 0 and 1, whose product with the values is their sum. Queries for which rounding leaves
    in doubt which rows these are are left to `nearest`; so are all, where that product is larger, or a row too wide.
    Memory O(q v) beside a block, else O(q (v + k)); time O(q n d), and then O(q k v).
    """
    (n, v), q, device = values.shape, len(queries), queries.device
    if n > WIDTH or v > queries.shape[1]:
        return embedding_bag(nearest(queries, vectors, k)[1], values, mode="mean")
    k = min(k, n)
    mean = vectors.mean(0, dtype=torch.float32)
    centred = vectors - mean  # (n, d) float32
    lengths = centred.square().sum(1)  # (n,)
    counted = torch.cat([values, torch.ones_like(values[:, :1])], 1)  # (n, v + 1)
    sums = torch.empty(q, v + 1, device=device)
    places = blocks(q, n, device)
    room = torch.empty(2, places[0].stop, n, device=device)  # fresh memory costs a CPU more than the sums in it
    for here in places:
        some = queries[here] - mean  # (b, d)
        distances, scratch = room[:, : len(some)]  # (b, n) each
        torch.addmm(lengths, some, centred.T, alpha=-2, out=distances)  # less |query|^2
        doubt = DOUBT * (some.square().sum(1, keepdim=True) + lengths.amax())
        within = distances.le_(kth(scratch.copy_(distances), k) + doubt)  # of 0 and 1
        torch.mm(within, counted, out=sums[here])
    found, unsure = sums[:, :v] / k, (sums[:, v] != k).nonzero()[:, 0]
    if len(unsure):
        found[unsure] = embedding_bag(nearest(queries[unsure], vectors, k)[1], values, mode="mean")
    return found


def kth(matrix: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th least number of every row, (b, 1), of a matrix whose order is lost. NumPy is 4 times as fast as torch
    on a CPU."""
    if matrix.is_cuda:
        return matrix.topk(k, largest=False).values[:, -1:]
    matrix.numpy().partition(k - 1, axis=1)
    return matrix[:, k - 1 : k].clone()


def nearest_distinct(queries: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For every query in turn, the nearest row of `vectors` that no query before it took: k-means' representatives.

    queries: (q, d), q <= n; vectors: (n, d)
    Returns rows (q,) int64, all distinct, ties to the lower row, and squared distances (q,) float32.
    """
    free = np.arange(len(vectors))  # rows that are left
    rows, distances, width = [], [], 16
    while len(rows) < len(queries):
        asking = queries[len(rows) :][: max(1, BLOCK // width)]
        left = vectors if len(free) == len(vectors) else vectors[torch.from_numpy(free).to(vectors.device)]
        taken = set()
        for lengths, choices in zip(*(part.tolist() for part in nearest(asking, left, width)), strict=True):
            first = next((i for i, row in enumerate(choices) if row not in taken), None)
            if first is None:  # all its nearest are gone: it asks again, among what is left, for more of them
                break
            taken.add(choices[first])
            rows.append(int(free[choices[first]]))
            distances.append(lengths[first])
        free, width = np.delete(free, list(taken)), 4 * width
    return torch.tensor(rows, device=vectors.device), torch.tensor(distances, device=vectors.device)


def nearest_within(vectors: torch.Tensor, groups: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows in its own group for every row, itself left out, nearest first, ties to the lower row.

    vectors: (n, d); groups: (n,) int64; a row with a negative group is nobody's neighbour and has none
    Returns squared distances (n, k) float32, infinite where there are fewer than k, and rows (n, k) int64, there 0.
    Memory O(n k) beside a block; time O(d) times the sum over groups of their size squared.
    """
    n, d = vectors.shape
    distances = torch.full((n, k), torch.inf, device=vectors.device)
    rows = torch.zeros(n, k, dtype=torch.int64, device=vectors.device)
    order = groups.sort(stable=True).indices[int((groups < 0).sum()) :]  # by group, then by row
    sizes = torch.bincount(groups[order]).cpu().numpy()
    starts = np.cumsum(sizes) - sizes
    by_size = np.argsort(-sizes, kind="stable")
    at, last = 0, int((sizes > 1).sum())
    while at < last:  # groups of about one size together, padded to the largest
        size = int(sizes[by_size[at]])
        if size * max(size, d) > BLOCK:
            members = order[starts[by_size[at]] : starts[by_size[at]] + size]
            far, near = nearest(vectors[members], vectors[members], k, exclude_self=True)
            distances[members, : far.shape[1]], rows[members, : far.shape[1]] = far, members[near]
            at += 1
            continue
        some = by_size[at : min(last, at + BLOCK // (size * max(size, d)))]  # (g,)
        count, start = (torch.from_numpy(part[some]).to(order.device)[:, None] for part in (sizes, starts))  # (g, 1)
        place = torch.arange(size, device=order.device)  # (s,)
        there = place < count  # (g, s)
        members = order[(start + place.minimum(count - 1))]  # (g, s)
        part = vectors[members.view(-1)].view(*members.shape, d).float()
        part = part - part[:, :1]  # differences of products lose fewer digits near the origin
        far = squared(part, part).masked_fill_(~there[:, None] | torch.eye(size, device=order.device).bool(), torch.inf)
        width = min(k, size - 1)
        keys = smallest(pack(far, place)[there], width).sort(1).values  # (b, width)
        far, near = unpack(keys)
        mine = members[there]  # (b,)
        distances[mine, :width] = far
        slots = start.expand_as(there)[there][:, None] + near  # padding runs into the next group, or past the last
        rows[mine, :width] = order[slots.clamp_(max=len(order) - 1)]
        at += len(some)
    return distances, rows.masked_fill_(distances == torch.inf, 0)


def blocks(rows: int, columns: int, device: torch.device, cpu: int = BLOCK // 16) -> list[slice]:
    """Stretches of the rows of a (rows, columns) matrix.

    cpu: numbers in a block on a CPU, by default what fits its cache; a GPU would wait for the launches of so small ones
    """
    height = max(1, (16 * BLOCK if device.type == "cuda" else cpu) // max(1, columns))
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distances of the rows of a (..., p, d) and b (..., q, d) in float32, exactly 0 between equal rows."""
    return products(a, beside(b))


def beside(b: torch.Tensor) -> torch.Tensor:
    """[b, |b|^2, 1], (..., q, d + 2): with [-2 a, 1, |a|^2], one matrix product gives |a - b|^2, in one pass."""
    lengths = b.square().sum(-1, keepdim=True)
    return torch.cat([b, lengths, torch.ones_like(lengths)], -1)


def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distances of the rows of a (..., p, d) and those that b (..., q, d + 2) was made of."""
    lengths = a.square().sum(-1, keepdim=True)
    distances = torch.cat([-2 * a, torch.ones_like(lengths), lengths], -1) @ b.mT
    equal = 2 * EQUAL * lengths
    if distances.is_cuda or bool((distances.amin(-1, keepdim=True) <= equal).any()):  # a look is cheaper on a CPU
        distances.masked_fill_(distances <= equal, 0.0)
    return distances


def least_keys(distances: torch.Tensor, columns: torch.Tensor, k: int) -> torch.Tensor:
    """The keys, see `pack`, of the k least of every row (b, w), in any order; all of them where w is less.

    Of many columns in groups, the k least lie in the k groups with the least minima: other groups are read only once.
    """
    rows, width = distances.shape
    if width % GROUP or width < 4 * GROUP * k:
        return smallest(pack(distances, columns), min(k, width))
    groups = distances.view(rows, -1, GROUP)
    place = torch.arange(groups.shape[1], device=distances.device)
    chosen = unpack(smallest(pack(groups.amin(2), place), k))[1]  # (b, k)
    some = groups.gather(1, chosen[:, :, None].expand(-1, -1, GROUP))  # (b, k, GROUP)
    return smallest(pack(some, columns.view(-1, GROUP)[chosen]).flatten(1), k)


def smallest(keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k least of every row of distinct keys (b, w), in any order. NumPy is 4 times as fast as torch on a CPU."""
    if k == keys.shape[1]:
        return keys
    if keys.is_cuda:
        return keys.topk(k, largest=False, sorted=False).values
    keys.numpy().partition(k - 1, axis=1)
    return keys[:, :k]


def pack(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Whole numbers that sort as the non-negative float32 values do, and equal values by their column."""
    return torch.add(columns, values.view(torch.int32), alpha=1 << 32)


def unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values and columns of `pack`."""
    return (keys >> 32).int().view(torch.float32), keys & 0xFFFFFFFF
