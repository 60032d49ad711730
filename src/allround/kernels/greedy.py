"""Greedy maximisation of a set function: again and again the row that adds most.

`greedy` is for functions that can keep the gains of all n rows current in O(n d) a pick; ties go to the lower row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from allround.kernels.repeat import repeat


def greedy(
    gains: torch.Tensor, update: Callable[[torch.Tensor], None], k: int, state: Sequence[torch.Tensor] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of the greedy algorithm, k <= n, and the gain of each when it was picked.

    gains: (n,) of every row with nothing picked yet; -inf for rows that must not be picked; changed in place
    update: called with the row (1,) int64 just picked; changes `gains` and `state` in place, by fixed shapes and
        without a look from the host (see allround.kernels.repeat); what it writes to picked rows does not matter
    Returns rows (k,) int64, all distinct, and gains (k,) float64.
    """
    rows = torch.zeros(k, dtype=torch.int64, device=gains.device)
    scores = torch.zeros(k, dtype=torch.float64, device=gains.device)
    picked = torch.zeros(len(gains), dtype=torch.bool, device=gains.device)
    count = torch.zeros(1, dtype=torch.int64, device=gains.device)

    def step() -> None:
        row = gains.argmax().view(1)
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, gains.index_select(0, row).double())
        update(row)
        picked.index_fill_(0, row, True)
        gains.masked_fill_(picked, -torch.inf)
        count.add_(1)

    repeat(step, (gains, picked, rows, scores, count, *state), times=k)
    return rows, scores
