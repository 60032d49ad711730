"""GALAXY: bisect towards every class's boundary, on the pool sorted by how much it looks like that class.

For each class in turn, all examples in a row by p(c | x) - p(y1 | x), predicted ones first by p(c | x). The pick is the
middle of the shortest stretch of unknown examples between one known to be of the class and one known not to be; where
there is none, the unknown one nearest to where two known neighbours differ (growing the graph's order until a path
appears); where the class has known examples on one side alone, the last one on the other side.
                                                        Zhang, Katz-Samuels & Nowak 2022 (ICML, arXiv 2202.01402)
The paper asks for the label of every pick at once. Within a batch there is none: the predicted class stands in.
Memory O(N C); time O(N C log N), then O(N) a pick. Gives no score.
"""

import torch

from allround.errors import AllroundError
from allround.kernels.repeat import repeat

NEEDS = {"outputs"}


def select(pool, budget, rng):
    labels = pool.labels if len(pool.labelled) else pool.labelled  # (m,); without labelled examples none is missing
    if labels is None or ((labels < 0) | (labels >= pool.n_classes)).any():
        raise AllroundError(
            f"galaxy: every labelled example needs a label in 0..{pool.n_classes - 1}, the columns of the logits; "
            "give labels=."
        )
    probabilities = torch.cat([pool.probabilities, pool.labelled_probabilities])  # (N, c), unlabelled rows first
    known = torch.cat([torch.full((len(pool),), -1), torch.from_numpy(labels)]).to(pool.device)  # class, or -1
    return pool.picks(bisect(probabilities, known, budget))


def bisect(probabilities, known, budget):
    """Rows (k,) of the unknown examples picked one after the other. known: (n,) classes, -1 where unknown."""
    (n, c), device = probabilities.shape, probabilities.device
    top, predicted = probabilities.max(1)
    orders = torch.empty(c, n, dtype=torch.int32, device=device)
    for label in range(c):
        p = probabilities[:, label]
        orders[label] = torch.where(predicted == label, p, p - top).sort(stable=True, descending=True).indices
    place = torch.arange(n, device=device)
    rows, count = (torch.zeros(size, dtype=torch.int64, device=device) for size in (budget, 1))

    def step():
        order = orders.index_select(0, count % c)[0]
        label = known.index_select(0, order)  # (n,) in the class's order, like all below
        unknown, positive = label < 0, label == count % c
        left = torch.where(unknown, -1, place).cummax(0).values  # nearest known place to the left, or -1
        right = torch.where(unknown, n, place).flip(0).cummin(0).values.flip(0)  # to the right, or n
        ends = positive.index_select(0, left.clamp(min=0)) != positive.index_select(0, right.clamp(max=n - 1))
        gap = torch.where(unknown & (left >= 0) & (right < n) & ends, right - left, n + 1)
        shortest = gap.argmin().view(1)  # the first place of the shortest stretch
        middle = (left.index_select(0, shortest) + right.index_select(0, shortest)) // 2
        cut = ~unknown & ~unknown.roll(-1) & (positive != positive.roll(-1)) & (place < n - 1)  # before the next place
        before = torch.where(cut, place, -n).cummax(0).values
        after = torch.where(cut, place, 2 * n).flip(0).cummin(0).values.flip(0)
        reach = torch.where(unknown, torch.minimum(place - before, after + 1 - place), 3 * n)
        lonely = torch.where(positive.any(), torch.where(unknown, place, -1).argmax(), unknown.int().argmax())
        pick = torch.where(gap.amin() <= n, middle, torch.where(cut.any(), reach.argmin(), lonely))
        row = order.index_select(0, pick.view(1)).long()
        rows.index_copy_(0, count, row)
        known.index_copy_(0, row, predicted.index_select(0, row))
        count.add_(1)

    repeat(step, (known, rows, count), times=budget)
    return rows
