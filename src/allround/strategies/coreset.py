"""Core-set: the labelled set and the batch together leave no example far from all of them.

next = argmax over x of min over c, labelled or chosen, of |h(x) - h(c)|, h the features (greedy k-centre)
                                                        Sener & Savarese 2018 (ICLR, arXiv 1708.00489)
With nothing labelled, the first is the example nearest to the mean.
Several exact picks in a pass over the pool, from the file where memory cannot hold it (allround.kernels.k_centre).
Memory O(N D), O(N) from the file; time O(N D) a pick, after O(N M D) for the M labelled examples. score: the distance
to the nearest c.
"""

from allround.kernels.k_centre import k_centre

NEEDS = {"outputs"}


def select(pool, budget, rng):
    rows, distances = k_centre(pool.rows("features"), pool.rows("features", labelled=True), budget)
    return pool.picks(rows, distances)
