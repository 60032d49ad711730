"""GLISTER: the batch whose training step lowers the loss on the validation set most.

gain(x) = -d/dt L_V(W - t eta g(x)) at t = 0 = eta <grad L_V(W), g(x)>
                                                        Killamsetty et al. 2021 (AAAI, arXiv 2012.10630)
g(x) = q [h, 1]^T, q = softmax(z) - onehot(argmax z): one step of the last layer, were the predicted class the label.
After a pick W is stepped, which moves the validation logits by -eta ([h_v, 1] . [h, 1]) q, and with them all gains.
With R = (softmax - onehot) / |V| on the validation set V, grad L_V = R^T [H_V, 1] = M and the gain is eta q . M [h, 1]:
neither the gradients (N x C D) nor W itself are formed. Regularisers, with s(i, j) = max(0, cos(h_i, h_j)):
facility_location  + weight * the gain in sum over i in G of max over j in S of s(i, j), G a uniform sample of `ground`
diversity          - weight * sum over j in S of s(x, j): the gain in dispersion, sum over pairs of 1 - s
random             the last weight / (1 + weight) of the batch is drawn uniformly
Terms are scaled to a largest gain of 1 at the first pick. score: the gain (of what is drawn: 0). Memory O(N (D + C +
ground)); time O((N + |V|) C D + N D) a pick, and O(N) for every member of G that it covers better.
"""

from typing import Annotated, Literal

import torch

from allround.kernels.facility_location import looks_are_free, rise
from allround.kernels.greedy import greedy
from allround.kernels.matching_pursuit import along
from allround.kernels.products import TINY, matvec, residuals, unit

NEEDS = {"outputs", "validation"}


def select(
    pool,
    budget,
    rng,
    *,
    step_size: Annotated[float, "> 0"] = 0.01,
    regulariser: Literal["none", "random", "facility_location", "diversity"] = "none",
    weight: Annotated[float, ">= 0"] = 1.0,
    ground: Annotated[int, ">= 1"] = 500,
):
    n = len(pool)
    features, held_out = pool.features, pool.of("validation", "features").float()  # (n, d), (m, d)
    q, logits = pool.map(residuals, "probabilities"), pool.of("validation", "logits").clone()  # (n, c), (m, c)
    truth = torch.from_numpy(pool.set_labels("validation")).to(pool.device)  # (m,)
    cover, spread = regulariser == "facility_location", regulariser == "diversity"
    drawn = round(budget * weight / (1 + weight)) if regulariser == "random" else 0
    keys = torch.from_numpy(rng.random(n if regulariser == "random" else 0)).to(pool.device)
    sample = rng.choice(n, min(ground, n), replace=False) if cover else [0]
    vectors = unit(features)[0] if cover or spread else q[:, :0]  # of no width, hence of no similarity, without
    similarity = vectors[torch.as_tensor(sample, device=pool.device)] @ vectors.T  # (g, n)
    best = torch.zeros(len(sample), device=pool.device)  # (g,) similarity to the nearest pick
    members, near = torch.arange(len(sample)).to(pool.device), torch.zeros(n).to(pool.device)  # near: sum to all picks

    def loss_gain():  # (n,)
        r = residuals(logits.softmax(1), truth) / len(logits)  # (m, c)
        return step_size * along(q, features, torch.cat([r.T @ held_out, r.sum(0)[:, None]], 1))

    loss_scale = loss_gain().abs().amax().clamp(min=TINY) if cover or spread else 1.0
    covers = rise(similarity, members[: len(sample) * cover], best, torch.full_like(best, torch.inf))  # (n,)
    cover_scale = covers.amax().clamp(min=TINY)

    def gain():  # (n,)
        gains = loss_gain() / loss_scale
        return gains + weight / cover_scale * covers if cover else gains - weight * near

    gains = gain()

    def update(row):
        h, change = features.index_select(0, row)[0].float(), q.index_select(0, row)  # (d,), (1, c)
        logits.addmm_((held_out @ h + 1)[:, None], change, alpha=-step_size)
        if cover:
            better = torch.maximum(best, similarity.index_select(1, row)[:, 0])
            closer = (better > best).nonzero()[:, 0] if looks_are_free(best.device) else members
            covers.sub_(rise(similarity, closer, best, better))
            best.copy_(better)
        if spread:
            near.add_(matvec(vectors, vectors.index_select(0, row)[0]).clamp_(min=0))
        gains.copy_(gain())

    rows, scores = greedy(gains, update, budget - drawn, (logits, best, near, covers))
    left = keys.index_fill(0, rows, torch.inf).sort(stable=True).indices[:drawn] if drawn else rows[:0]
    return pool.picks(torch.cat([rows, left]), torch.cat([scores, torch.zeros_like(left, dtype=scores.dtype)]))
