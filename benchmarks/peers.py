"""How scikit-activeml and submodlib are asked for what a strategy of ours does, for benchmarks/selection.py.

PEERS: strategy, or strategy:function -> (package, ready). ready takes the inputs as `Inputs`, makes what is not to be
timed, and returns a call that returns indices.
scikit-activeml gets the features as X and, where it asks for a classifier, a linear one that gives our logits: those
of the pool are made beforehand, as ours are. submodlib gets the features and its defaults (cosine similarities, all
pairs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Inputs:
    """Features (N, d) and logits (N, c) = features @ weights + bias, as tensors; what is labelled; the budget."""

    features: Any
    logits: Any
    weights: Any  # (d, c)
    bias: Any  # (c,)
    members: Any  # (t, d, c) weights of an ensemble
    labelled: np.ndarray
    labels: np.ndarray
    budget: int

    @property
    def query(self) -> np.ndarray:
        return self.labelled[: len(self.labelled) // 2]

    @property
    def private(self) -> np.ndarray:
        return self.labelled[len(self.labelled) // 2 :]


def _classifier(inputs: Inputs, weights: Any):
    from scipy.special import softmax
    from skactiveml.base import SkactivemlClassifier

    class Linear(SkactivemlClassifier):
        def __init__(self, classes=None, missing_label=np.nan, cost_matrix=None, random_state=None):
            super().__init__(classes, missing_label, cost_matrix, random_state)

        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X, return_embeddings=False):
            logits = self.logits if len(X) == len(self.logits) else X @ self.weights + self.bias
            p = softmax(logits, axis=1)
            return (p, X) if return_embeddings else p

        def predict(self, X):  # of features with dropout
            return self.classes_[(X @ self.weights + self.bias).argmax(1)]

    classifier = Linear(classes=list(range(weights.shape[1])))
    classifier.weights, classifier.bias = weights.numpy(), inputs.bias.numpy()
    unlabelled = np.delete(inputs.features.float().numpy(), inputs.labelled, axis=0)
    classifier.logits = unlabelled @ classifier.weights + classifier.bias
    classifier.classes_ = np.arange(weights.shape[1])
    classifier._le = None
    return classifier


def _skactiveml(name: str, learner: str = "", call: dict | None = None, **options: Any) -> Callable:
    """skactiveml.pool.<name>(**options).query; learner: query's argument for a classifier, if it has one."""

    def ready(inputs: Inputs) -> Callable[[], np.ndarray]:
        import skactiveml.pool

        X, y = inputs.features.float().numpy(), np.full(len(inputs.features), np.nan)
        y[inputs.labelled] = inputs.labels
        arguments = dict(call or {})
        if learner == "ensemble":
            arguments |= {"ensemble": [_classifier(inputs, w) for w in inputs.members], "fit_ensemble": False}
        elif learner:
            arguments |= {learner: _classifier(inputs, inputs.weights), f"fit_{learner}": False}

        def run() -> np.ndarray:
            strategy = getattr(skactiveml.pool, name)(missing_label=np.nan, random_state=0, **options)
            return strategy.query(X=X, y=y, batch_size=inputs.budget, **arguments)

        return run

    return ready


def _submodlib(name: str, sets: tuple[str, ...] = (), **options: Any) -> Callable:
    """submodlib.<name>Function(...).maximize; sets: which of query and private sets it takes."""

    def ready(inputs: Inputs) -> Callable[[], np.ndarray]:
        return partial(_maximised, name, sets, options, inputs)

    return ready


def _maximised(name: str, sets: tuple[str, ...], options: dict, inputs: Inputs) -> np.ndarray:
    import submodlib

    unlabelled = np.setdiff1d(np.arange(len(inputs.features)), inputs.labelled)
    vectors = inputs.features.float().numpy()
    data, arguments = vectors[unlabelled], dict(options)
    for kind in sets:
        some = getattr(inputs, kind)
        arguments |= {f"num_{'queries' if kind == 'query' else 'privates'}": len(some)}
        arguments |= {f"{kind}Data": vectors[some]}
    if name == "FeatureBased":
        arguments |= {"features": data.tolist(), "numFeatures": data.shape[1], "sparse": False}
    else:
        arguments |= {"data": data} | ({} if sets else {"mode": "dense"})
    function = getattr(submodlib, f"{name}Function")(n=len(data), **arguments)
    optimiser = "LazyGreedy" if name in LAZY else "NaiveGreedy"
    return unlabelled[[row for row, _ in function.maximize(inputs.budget, optimizer=optimiser, show_progress=False)]]


LAZY = {"FacilityLocation", "LogDeterminant", "FeatureBased", "GraphCut"}  # where it is exact: submodular, monotone
BOTH = ("query", "private")
PEERS: dict[str, tuple[str, Callable]] = {
    "random": ("scikit-activeml", _skactiveml("RandomSampling")),
    "margin": ("scikit-activeml", _skactiveml("UncertaintySampling", "clf", method="margin_sampling")),
    "entropy": ("scikit-activeml", _skactiveml("UncertaintySampling", "clf", method="entropy")),
    "least_confidence": ("scikit-activeml", _skactiveml("UncertaintySampling", "clf", method="least_confident")),
    "bald": ("scikit-activeml", _skactiveml("GreedyBALD", "ensemble")),
    "batch_bald": ("scikit-activeml", _skactiveml("BatchBALD", "ensemble")),
    "badge": ("scikit-activeml", _skactiveml("Badge", "clf")),
    "coreset": ("scikit-activeml", _skactiveml("CoreSet")),
    "typiclust": ("scikit-activeml", _skactiveml("TypiClust", k=20)),
    "probcover": ("scikit-activeml", _skactiveml("ProbCover")),
    "max_herding": ("scikit-activeml", _skactiveml("MaxHerding")),
    "falcun": ("scikit-activeml", _skactiveml("Falcun", "clf")),
    "clue": ("scikit-activeml", _skactiveml("Clue", "estimator")),
    "contrastive": ("scikit-activeml", _skactiveml("ContrastiveAL", "clf", nearest_neighbors_dict={"n_neighbors": 10})),
    "dropquery": ("scikit-activeml", _skactiveml("DropQuery", "clf", n_dropout_samples=3)),
    "facility_location": ("submodlib", _submodlib("FacilityLocation")),
    "graph_cut": ("submodlib", _submodlib("GraphCut", lambdaVal=0.4)),
    "log_determinant": ("submodlib", _submodlib("LogDeterminant", lambdaVal=1.0)),
    "disparity_min": ("submodlib", _submodlib("DisparityMin")),
    "disparity_sum": ("submodlib", _submodlib("DisparitySum")),
    "feature_based": ("submodlib", _submodlib("FeatureBased")),
    "smi:fl1mi": ("submodlib", _submodlib("FacilityLocationMutualInformation", ("query",))),
    "smi:fl2mi": ("submodlib", _submodlib("FacilityLocationVariantMutualInformation", ("query",))),
    "smi:gcmi": ("submodlib", _submodlib("GraphCutMutualInformation", ("query",))),
    "smi:logdetmi": ("submodlib", _submodlib("LogDeterminantMutualInformation", ("query",), lambdaVal=1.0)),
    "smi:com": ("submodlib", _submodlib("ConcaveOverModular", ("query",))),
    "scg:flcg": ("submodlib", _submodlib("FacilityLocationConditionalGain", ("private",))),
    "scg:gccg": ("submodlib", _submodlib("GraphCutConditionalGain", ("private",), lambdaVal=0.4)),
    "scg:logdetcg": ("submodlib", _submodlib("LogDeterminantConditionalGain", ("private",), lambdaVal=1.0)),
    "scmi:flcmi": ("submodlib", _submodlib("FacilityLocationConditionalMutualInformation", BOTH)),
    "scmi:logdetcmi": ("submodlib", _submodlib("LogDeterminantConditionalMutualInformation", BOTH, lambdaVal=1.0)),
}
