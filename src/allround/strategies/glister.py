"""GLISTER: the batch whose training step lowers the loss on the validation set most.

gain(x) = -d/dt L_V(W - t eta g(x)) at 0 = eta <grad L_V(W), g(x)>        Killamsetty et al. 2021 (AAAI, arXiv 2012.10630)
g(x) = q [h, 1]^T, q = softmax(z) - onehot(argmax z): one step of the last layer, were the predicted class the label.
After a pick W is stepped, which moves the validation logits by -eta ([h_v, 1] . [h, 1]) q, and so are all gains.
The validation set V is the labelled set. With R = its (softmax - onehot) / |V|, grad L_V = R^T [H_V, 1] = M, and the gain
is eta q . M [h, 1]: neither the gradients (n x c d) nor W itself are formed.

regulariser facility_location adds weight * the gain in f(S) = mean over i in G of max over j in S of max(0, cos(h_i, h_j)),
G a uniform sample of `ground` examples; both terms are scaled to a largest gain of 1 at the first pick.
Memory O(N (D + C + ground)); time O(N C D + M C D + N ground) a pick, M labelled examples. score: the gain.
"""

from typing import Literal

import torch

from allround.errors import AllroundError
from allround.kernels.products import BLOCK, residuals, unit
from allround.kernels.repeat import repeat

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    step_size=0.01,
    regulariser: Literal["none", "facility_location"] = "none",
    weight=1.0,
    ground=500,
):
    check(pool, step_size, weight, ground)
    features, held_out = pool.features.float(), pool.labelled_features.float()  # (n, d), (m, d)
    q = pool.map(residuals, "probabilities")  # (n, c)
    logits = pool.labelled_logits.clone()  # (m, c), of the validation set, after each pick
    truth = torch.nn.functional.one_hot(torch.from_numpy(pool.labels).to(pool.device), pool.n_classes)

    def loss_gains():  # (n,)
        r = (logits.softmax(1) - truth) / len(logits)  # (m, c)
        return step_size * torch.addmm(r.sum(0), features, held_out.T @ r).mul_(q).sum(1)

    regularised = regulariser == "facility_location"
    sample = rng.choice(len(pool), min(ground, len(pool)), replace=False) if regularised else [0]
    vectors = unit(features)[0] if regularised else features[:, :0]  # without a regulariser all similarities are 0
    similarity = vectors @ vectors[torch.as_tensor(sample, device=pool.device)].T  # (n, g)
    nearest = torch.zeros(len(sample), device=pool.device)  # (g,) similarity to the nearest pick

    def cover_gains():  # (n,), in blocks: each is as large as the similarities
        blocks = similarity.split(max(1, BLOCK // len(sample)))
        return torch.cat([(block - nearest).clamp_(min=0).mean(1) for block in blocks])

    tiny = torch.finfo(torch.float32).tiny
    loss_scale = loss_gains().abs().amax().clamp(min=tiny) if regularised else 1.0
    cover_scale = cover_gains().amax().clamp(min=tiny)
    taken = torch.zeros(len(pool), device=pool.device)  # (n,) -inf once picked
    rows = torch.zeros(budget, dtype=torch.int64, device=pool.device)
    scores = torch.zeros(budget, device=pool.device)
    count = torch.zeros(1, dtype=torch.int64, device=pool.device)

    def step():
        gains = loss_gains() / loss_scale + taken
        if regularised:
            gains += weight * cover_gains() / cover_scale
        row = gains.argmax().view(1)
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, gains.index_select(0, row))
        h, change = features.index_select(0, row)[0], q.index_select(0, row)  # (d,), (1, c)
        logits.addmm_((held_out @ h + 1)[:, None], change, alpha=-step_size)
        torch.maximum(nearest, similarity.index_select(0, row)[0], out=nearest)
        taken.index_fill_(0, row, -torch.inf)
        count.add_(1)

    repeat(step, (logits, nearest, taken, rows, scores, count), times=budget)
    return pool.picks(rows, scores)


def check(pool, step_size, weight, ground):
    if not len(pool.labelled) or pool.labels is None:
        raise AllroundError("glister validates on the labelled set, which is empty or without labels; label a seed set first.")
    if pool.labels.min() < 0 or pool.labels.max() >= pool.n_classes:
        raise AllroundError(f"glister: labels must lie in 0..{pool.n_classes - 1}, the columns of the logits.")
    if step_size <= 0 or weight < 0 or ground < 1:
        raise AllroundError("glister: step_size must be above 0, weight 0 or more, ground 1 or more.")
