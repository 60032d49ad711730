"""BADGE: a batch that is diverse in direction and large in magnitude of the gradients it would cause.

g(x) = (softmax(z) - onehot(argmax z)) h^T, the gradient of the loss in the last layer, were the predicted class the
label; k-means++ over g: first the largest |g|, then x with probability ~ min over the chosen c of |g(x) - g(c)|^2
                                                        Ash et al. 2020 (ICLR, arXiv 1906.03671)
g is kept as its two factors, |g_i - g_j|^2 = |q_i|^2 |h_i|^2 + |q_j|^2 |h_j|^2 - 2 (q_i . q_j) (h_i . h_j).
Several exact picks in a pass over the pool, from the file where memory cannot hold it (allround.kernels.k_means).
Memory O(N (D + C)), O(N) from the file; time O(N (D + C)) a pick. score: the squared distance that it was drawn by.
"""

from allround.kernels.k_means import k_means_plus_plus
from allround.kernels.products import residuals

NEEDS = {"outputs"}


def select(pool, budget, rng):
    gradients = pool.rows("features", probabilities=residuals)  # (n, d), (n, c)
    rows, distances = k_means_plus_plus(gradients, budget, rng)
    return pool.picks(rows, distances)
