"""GLISTER: the batch whose training step lowers the loss on the validation set most.

gain(x) = -d/dt L_V(W - t eta g(x)) at t = 0 = eta <grad L_V(W), g(x)>
                                                        Killamsetty et al. 2021 (AAAI, arXiv 2012.10630)
g(x) = q [h, 1]^T, q = softmax(z) - onehot(argmax z): one step of the last layer, were the predicted class the label.
After a pick W is stepped, which moves the validation logits by -eta ([h_v, 1] . [h, 1]) q, and with them all gains.
The validation set V is the labelled set. With R = its (softmax - onehot) / |V|, grad L_V = R^T [H_V, 1] = M, and the
gain is eta q . M [h, 1]: neither the gradients (N x C D) nor W itself are formed.
regulariser facility_location adds weight * the gain in sum over i in G of max over j in S of max(0, cos(h_i, h_j)), G
a uniform sample of `ground` examples; both terms are scaled to a largest gain of 1 at the first pick.
Memory O(N (D + C + ground)); time O((N + M) C D + N ground) a pick, M labelled examples. score: the gain.
"""

from typing import Literal

import torch
from torch.nn.functional import one_hot

from allround.errors import AllroundError
from allround.kernels.facility_location import rises
from allround.kernels.products import residuals, unit
from allround.kernels.repeat import repeat

NEEDS = {"outputs"}
TINY = torch.finfo(torch.float32).tiny


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
    if not len(pool.labelled) or pool.labels is None:
        raise AllroundError("glister validates on the labelled set, which is empty here; label a seed set first.")
    if not 0 <= pool.labels.min() <= pool.labels.max() < pool.n_classes:
        raise AllroundError(f"glister: labels must lie in 0..{pool.n_classes - 1}, the columns of the logits.")
    if step_size <= 0 or weight < 0 or ground < 1:
        raise AllroundError("glister: step_size must be above 0, weight 0 or more, ground 1 or more.")

    features, held_out = pool.features.float(), pool.labelled_features.float()  # (n, d), (m, d)
    q = pool.map(residuals, "probabilities")  # (n, c)
    logits = pool.labelled_logits.clone()  # (m, c) of the validation set, as each pick moves them
    truth = one_hot(torch.from_numpy(pool.labels).to(pool.device), pool.n_classes)  # (m, c)

    def loss_gain():  # (n,)
        r = (logits.softmax(1) - truth) / len(logits)  # (m, c)
        return step_size * torch.addmm(r.sum(0), features, held_out.T @ r).mul_(q).sum(1)

    cover = regulariser == "facility_location"
    sample = rng.choice(len(pool), min(ground, len(pool)), replace=False) if cover else [0]
    vectors = unit(features)[0] if cover else features[:, :0]  # of no width, hence of no similarity, without
    similarity = vectors @ vectors[torch.as_tensor(sample, device=pool.device)].T  # (n, g)
    best = torch.zeros(len(sample), device=pool.device)  # (g,) similarity to the nearest pick
    loss_scale = loss_gain().abs().amax().clamp(min=TINY) if cover else 1.0
    cover_scale = rises(similarity, best).amax().clamp(min=TINY) if cover else 1.0
    taken = torch.zeros(len(pool), device=pool.device)  # (n,) -inf once picked
    rows = torch.zeros(budget, dtype=torch.int64, device=pool.device)
    scores = torch.zeros(budget, device=pool.device)
    count = torch.zeros(1, dtype=torch.int64, device=pool.device)

    def step():
        gain = loss_gain() / loss_scale + taken  # (n,)
        if cover:
            gain += weight / cover_scale * rises(similarity, best)
        row = gain.argmax().view(1)
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, gain.index_select(0, row))
        h, change = features.index_select(0, row)[0], q.index_select(0, row)  # (d,), (1, c)
        logits.addmm_((held_out @ h + 1)[:, None], change, alpha=-step_size)
        torch.maximum(best, similarity.index_select(0, row)[0], out=best)
        taken.index_fill_(0, row, -torch.inf)
        count.add_(1)

    repeat(step, (logits, best, taken, rows, scores, count), times=budget)
    return pool.picks(rows, scores)
