"""BatchBALD: the batch whose labels say most, together, about the model.

next = argmax over x of I(y_1..y_m, y; w) - I(y_1..y_m; w) = H(y | y_1..y_m) - mean_t H(p_t(y | x)), greedily
                                                        Kirsch, van Amersfoort & Gal 2019 (NeurIPS, arXiv 1906.08158)
t are the draws of the posterior, y_1..y_m the labels of the picks. H(y | y_1..y_m) is a sum over all C^m labels of the
picks while C^(m+1) is at most `configurations`, then over configurations / C of them, drawn ~ p(y_1..y_m). Candidates
are the `candidates` examples of largest BALD score (null: all), and the greedy algorithm is lazy: a gain only falls.
A batch tells log T at most, so that large batches want many draws (the option `samples`); once no gain of 1e-5 nats is
left, the rest are those of largest BALD score.
Memory O(N + U T C + configurations T), U candidates; time O(N T C), then configurations * T a gain that is computed.
score: the gain in nats.
"""

from typing import Annotated

from allround.kernels.joint_information import joint_information
from allround.strategies.bald import expected, information

NEEDS = {"samples"}


def select(
    pool,
    budget,
    rng,
    *,
    configurations: Annotated[int, ">= 1"] = 40000,
    candidates: Annotated[int | None, ">= 1"] = 5000,
):
    bald = pool.map(information, "mc_logits")  # (n,)
    best = bald.sort(stable=True, descending=True).indices[: candidates and max(candidates, budget)]
    kept = best.sort().values  # (u,) rows, so that ties go to the lower
    p = pool.take("mc_logits", kept).softmax(2)  # (t, u, c)
    rows, gains = joint_information(p, bald[kept], expected(p), budget, configurations, rng.random((2, budget)))
    return pool.picks(kept[rows], gains)
