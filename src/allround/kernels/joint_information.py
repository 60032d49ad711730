"""The rows whose labels say most, together, about which draw of a posterior is the true one: BatchBALD's greedy batch.

    gain(i | A) = I(y_A, y_i; t) - I(y_A; t) = H(y_i | y_A) - mean_t H(p_t(y_i))

The expectation over the labels y_A of the picks is a sum over all c^|A| of them while they are few. Then they are
drawn: outcome s belongs to draw t_s, and each pick's label is drawn from p_(t_s), so that (t_s, y_A) follow the model
exactly and a new pick extends the outcomes that are there (batchbald_redux draws all labels again for every pick).
Given t, labels are independent: a gain can only fall as A grows, so that what it was bounds what it is (lazy greedy,
Minoux 1978). A step computes the stale gains of highest bound, and commits the best row if its gain is fresh.

The gains of a batch add up to log t at most. Once none is left above rounding (LEAST), the rest are the rows of largest
gain for themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from allround.kernels.mixtures import expected_entropy
from allround.kernels.products import TINY
from allround.kernels.repeat import repeat

OUTCOMES = {"cpu": 1 << 22, "cuda": 1 << 25}  # of gains computed in one step
LEAST = 1e-5  # nats


def joint_information(
    draws: Tensor, gains: Tensor, noise: Tensor, k: int, limit: int, lines: np.ndarray
) -> tuple[Tensor, Tensor]:
    """The k rows of the greedy algorithm, k <= n, and the gain in nats of each when it was picked.

    draws: (t, n, c) class probabilities; gains: (n,) of the first pick; noise: (n,) mean_t H(p_t)
    limit: outcomes of the picks' labels and one more label that are looked at for a gain
    lines: (2, k) uniform in [0, 1)
    Returns rows (k,) int64, all distinct, and gains (k,) float64, 0 for those below LEAST. Memory O(t n c +
    limit t / c).
    """
    (t, n, c), device = draws.shape, draws.device
    lines = torch.from_numpy(lines).to(device)
    bounds = gains.double()  # (n,) of the gains, -inf once picked
    fresh = torch.ones(n, dtype=torch.bool, device=device)  # whose bound is its gain
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    scores = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)
    flat = torch.zeros(1, dtype=torch.bool, device=device)  # whether no gain is left
    state = bounds, fresh, rows, scores, count, flat

    def look(logs: Tensor, mass: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """One step towards pick `last`; logs: (s, t), log p(t | outcome) but for a constant; mass: (s,)."""
        stale = torch.where(fresh, -torch.inf, bounds)
        some = stale.topk(min(n, max(1, OUTCOMES[device.type] // (len(logs) * c)))).indices
        gain = expected_entropy(logs.softmax(1), mass, draws.index_select(1, some)) - noise.index_select(0, some)
        known, bound = fresh.index_select(0, some), bounds.index_select(0, some)
        bounds.index_copy_(0, some, torch.where(known | (bound == -torch.inf), bound, gain.double()))
        fresh.index_fill_(0, some, True)
        row = bounds.argmax().view(1)
        best = bounds.index_select(0, row)
        ready = fresh.index_select(0, row) & (count < last)  # (1,)
        flat.logical_or_(ready & (best < LEAST))
        commit = ready & ~flat
        slot = count.clamp(max=k - 1)
        rows.index_copy_(0, slot, torch.where(commit, row, rows.index_select(0, slot)))
        scores.index_copy_(0, slot, torch.where(commit, best, scores.index_select(0, slot)))
        bounds.index_copy_(0, row, torch.where(commit, -torch.inf, best))
        fresh.logical_and_(~commit)
        count.add_(commit)
        return row, commit

    def reached(last: int) -> Callable[[], bool]:
        return lambda: int(count) == last or bool(flat)

    def filled() -> tuple[Tensor, Tensor]:
        """The rows picked, and where no gain was left, the others by their gain for themselves."""
        picked = int(count)
        alone = gains.index_fill(0, rows[:picked], -torch.inf)
        rows[picked:] = alone.sort(stable=True, descending=True).indices[: k - picked]
        return rows, scores

    logs, m = torch.zeros(1, t, device=device), 0  # (c^m, t) log p_t(y_A)
    while m < k and c ** (m + 1) <= limit and not bool(flat):
        mass, m = logs.logsumexp(1).exp() / t, m + 1
        repeat(lambda logs=logs, mass=mass, m=m: look(logs, mass, m), state, done=reached(m))
        fresh.zero_()  # a GPU may have taken steps after the pick
        if c ** (m + 1) <= limit:
            logs = (logs[:, None] + _log(draws, rows[m - 1 : m]).T).flatten(0, 1)
    if m == k or bool(flat):
        return filled()

    size = max(1, limit // (c * t)) * t
    logs, mass = torch.zeros(size, t, device=device), torch.full((size,), 1 / size, device=device)
    outcome = torch.arange(size, device=device)
    owner = outcome % t  # (s,) t_s

    def extended(logs: Tensor, row: Tensor, place: Tensor) -> Tensor:
        """The outcomes with the label of one more row."""
        # One line a pick instead of a number an outcome: uniform, and independent for any two outcomes, which is
        # all that the variance of a mean over outcomes depends on.
        slope, offset = lines.index_select(1, place)
        labels = _labels(draws.index_select(1, row)[:, 0], owner, (slope * outcome + offset).frac())
        logs = logs + _log(draws, row).index_select(1, labels).T
        return logs - logs.amax(1, keepdim=True)

    for place in range(m):
        logs = extended(logs, rows[place : place + 1], count.new_tensor([place]))

    def step() -> None:
        row, commit = look(logs, mass, k)
        torch.where(commit, extended(logs, row, (count - 1).clamp(min=0)), logs, out=logs)

    repeat(step, (*state, logs), done=reached(k))
    return filled()


def _log(draws: Tensor, row: Tensor) -> Tensor:
    """log p_t(y) of one row, (t, c); finite."""
    return draws.index_select(1, row)[:, 0].clamp(min=TINY).log()


def _labels(table: Tensor, owner: Tensor, u: Tensor) -> Tensor:
    """A class (s,) ~ the row `owner` of the table (t, c), by inverting its distribution function at u (s,)."""
    upto = table.double().cumsum(1)  # (t, c)
    below = (upto / upto[:, -1:]).index_select(0, owner) <= u[:, None]  # (s, c)
    return below.sum(1).clamp_(max=table.shape[1] - 1)
