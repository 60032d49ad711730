"""Views of the pool: what strategies NEED of a trained model. One file a view; the folder is the registry.

A file defines `write(path, model, images, *, mean, std, device, identity, digest)`, which writes pool/<view>.h5 block
by block; images is (n, h, w, c) uint8, read lazily. The embed stage looks a view up by name, so that a new view leaves
the fingerprint, and with it the files, of the others alone.
"""

from __future__ import annotations

from pathlib import Path


def names() -> list[str]:
    """The views there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def module(name: str) -> str:
    """The dotted name of a view's module."""
    return f"{__name__}.{name}"
