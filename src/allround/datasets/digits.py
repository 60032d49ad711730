"""Handwritten digits, 8 x 8 grey, from scikit-learn: 1297 to train on, 500 to test on; no network, no file.

The test set of the UCI collection "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998): 1797 images,
10 classes, pixels 0..16, scaled here to 0..255. scikit-learn gives no split; ours takes about 500/1797 of every class
by a fixed hash (allround.datasets.stratified, seed 0), 500 in all. `origin` is the index in scikit-learn's order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allround.artifacts import Split
from allround.datasets import Source, stratified


def load(data: Path) -> Source:
    """The digits; `data` is not used."""
    from sklearn.datasets import load_digits  # 1.4 s to import

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (n, 8, 8, 1)
    labels = digits.target.astype(np.int64)  # (n,)
    test = stratified(labels, [str(index) for index in range(len(labels))], 500 / 1797, seed=0)
    train, test = (
        Split(images[index], labels[index], index) for index in (np.flatnonzero(~test), np.flatnonzero(test))
    )
    return Source([str(digit) for digit in range(10)], train, test, "scikit-learn's digits")


def missing(data: Path) -> str | None:
    """Nothing can be missing: the images come with scikit-learn."""
    return None
