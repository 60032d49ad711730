"""Views of the pool: what strategies NEED of a trained model. One file a view; the folder is the registry.

A file defines `write(path, models, images, *, view, seeds, mean, std, device, identity, digest)`, which writes
pool/<view>.h5 block by block. models: the round's model, for the view `ensemble` all members; images: (n, h, w, c)
uint8, read lazily; seeds: the job's SeedSequence. A view of several draws has their number in its name: `mc_dropout10`
is made by mc_dropout.py. The embed stage looks a view up by name, so that a new view leaves the fingerprint, and with
it the files, of the others alone.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

SEVERAL = "ensemble"  # the view that looks through more models than one


@cache
def names() -> tuple[str, ...]:
    """The views there are."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")))


def with_samples(name: str, samples: int) -> str:
    """The view of that many draws: 'mc_dropout10'."""
    return f"{name}{samples}"


def base(view: str) -> str:
    """A view's name without the number of draws: 'mc_dropout' of 'mc_dropout10'."""
    return view.rstrip("0123456789")


def samples(view: str) -> int:
    """The number of draws in a view's name; 1 where it has none."""
    return int(view[len(base(view)) :] or 1)


def members(view: str) -> range:
    """The models that a view looks through beside the round's own: 1, 2, ... of an ensemble."""
    return range(1, samples(view) if base(view) == SEVERAL else 1)


def module(view: str) -> str:
    """The dotted name of a view's module."""
    return f"{__name__}.{base(view)}"
