"""Core-set: the labelled set and the batch together leave no example far from all of them.

next = argmax over x of min over c, labelled or chosen, of |h(x) - h(c)|        Sener & Savarese 2018 (ICLR), greedy k-centre
h are the features. With nothing labelled, the first is the example nearest to the mean.
Memory O(N D); time O(N D) a pick and O(N M D) for M labelled examples. score: the distance to the nearest centre before.
"""

from allround.kernels.k_centre import k_centre

NEEDS = {"outputs"}


def select(pool, budget, rng):
    rows, distances = k_centre(pool.features, pool.labelled_features, budget)
    return pool.picks(rows, distances)
