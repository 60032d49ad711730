"""BASE (balanced selection): for every class, as many of the examples nearest to its decision boundary.

r(x, c) = (z_y - z_c) / |w_y - w_c|, the distance in features from x, predicted y, to where class c takes over;
r(x, y) = min over c of r(x, c). Class by class, the budget / C unpicked x with the least r(x, c); the first budget
mod C classes take one more                             Emam et al. 2021 (arXiv 2111.12880)
The picks go in turn through the classes, nearest first. Memory O(N C + C^2); time O(N C + C^2 D).
score: minus the distance.
"""

import torch

from allround.kernels.neighbours import pack, unpack

NEEDS = {"outputs", "model"}
FAR = torch.finfo(torch.float32).max  # between classes of equal weights there is no boundary


def select(pool, budget, rng):
    weight, c = pool.model.head.weight.float(), pool.n_classes  # (c, d)
    apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")  # (c, c)

    def radius(logits):  # (b, c) -> (b, c)
        z, y = logits.max(1, keepdim=True)
        lengths = apart[y[:, 0]]
        r = torch.where(lengths > 0, (z - logits) / lengths, torch.inf).scatter(1, y, torch.inf)
        return r.scatter(1, y, r.amin(1, keepdim=True)).clamp(max=FAR)

    distances = pool.map(radius, "logits")  # (n, c)
    position, taken = torch.arange(len(pool), device=pool.device), torch.zeros(len(pool), device=pool.device).bool()
    keys, rank = [], []
    for label in range(min(c, budget)):
        count = budget // c + (label < budget % c)
        key = pack(distances[:, label].contiguous(), position).masked_fill_(taken, torch.iinfo(torch.int64).max)
        keys.append(key.topk(count, largest=False, sorted=True).values)
        rank.append(torch.arange(count, device=pool.device))
        taken[unpack(keys[-1])[1]] = True
    order = torch.cat(rank).sort(stable=True).indices  # the best of every class, then the second of every class, ...
    nearest, rows = unpack(torch.cat(keys)[order])
    return pool.picks(rows, -nearest)
