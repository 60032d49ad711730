"""Random sampling: every unlabelled example is equally likely; the baseline of every comparison.

Memory O(N); time O(N). Looks at no view, so that its rounds embed nothing and import no torch.
"""

NEEDS = set()


def select(pool, budget, rng):
    return rng.choice(pool.unlabelled, budget, replace=False)
