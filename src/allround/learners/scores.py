"""How good a classifier's probabilities are: accuracy, negative log-likelihood, calibration, accuracy a class."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15  # of the expected calibration error


def evaluate(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Test metrics from logits (n, c) and labels (n,).

    accuracy: fraction of correct predictions
    nll: mean of -log p(label), in nats
    ece: expected calibration error over 15 bins of equal width (Guo et al. 2017): mean over the examples of their bin's
        |accuracy - mean confidence|, confidence being the probability of the predicted class
    per_class_accuracy: one number a class, None where the test set has no example of it
    """
    n, classes = logits.shape
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # (n, c) log p
    predicted = logs.argmax(1)
    hit = predicted == labels
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=hit, minlength=classes)
    return {
        "n_test": n,
        "accuracy": float(hit.mean()),
        "nll": float(-logs[np.arange(n), labels].mean()),
        "ece": expected_calibration_error(np.exp(logs.max(1)), hit),
        "per_class_accuracy": [float(h / c) if c else None for h, c in zip(hits, counts, strict=True)],
    }


def expected_calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """confidence (n,) in 0..1, hit (n,) bool; bin k holds confidences in (k / 15, (k + 1) / 15]."""
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=hit - confidence, minlength=BINS)  # sum over a bin of (hit - confidence)
    return float(np.abs(gaps).sum() / len(hit))
