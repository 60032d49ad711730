"""The pool as a strategy sees it: the outputs of the model, and what is labelled already.

A pool is a lazy look at view files and labels.csv (`Pool.open`) or at arrays in memory (`Pool.from_arrays`). No row
is read before it is asked for, and then in blocks of bounded memory, so that one-pass scores work from a file larger
than memory. torch is imported with the first row (importing it costs 2 s): a strategy that looks at no view does not
pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allround.artifacts import open_view, read_labels, same_dataset
from allround.errors import AllroundError

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 16 << 20  # rows are read in blocks of about this size: small enough for the allocator to use again
ROW_AXIS = {"mc_logits": 1}  # where the examples lie in a field; 0 in all others
DERIVED = {"probabilities": "logits"}  # field -> the field it is computed from
HALF_IS_ENOUGH = {"features"}  # fields that stay in 16 bits where they are stored so; all others become float32


class Picks(NamedTuple):
    """What a strategy picked, best first."""

    index: Any  # (budget,) int64, dataset indices
    score: Any = None  # (budget,), what they were picked for, in the strategy's own scale; None where it gives none


@dataclass(frozen=True)
class Field:
    """One array with a row per training example, read in slices: read(start, stop) -> rows as they are stored."""

    where: str  # named in error messages
    row: tuple[int, ...]  # shape of one example's row
    read: Callable[[int, int], Any]
    in_memory: bool


class Pool:
    """Unlabelled and labelled examples of one round.

    size: number of training examples N, labelled or not
    unlabelled: (n,) int64 dataset indices, ascending; row i of features, logits, ... belongs to unlabelled[i]
    labelled: (m,) int64 dataset indices in order of acquisition; row i of labelled_features, ... belongs to labelled[i]
    labels: (m,) int64, or None where they are not known
    device: where tensors are put and the arithmetic runs
    views: names of the views that are there
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        *,
        size: int,
        labelled: np.ndarray,
        labels: np.ndarray | None,
        device: str,
        views: frozenset[str],
    ):
        self.fields, self.size, self.device, self.views = dict(fields), size, device, views
        self.labelled = np.asarray(labelled, dtype=np.int64).reshape(-1)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64).reshape(-1)
        _check_labelled(self.labelled, self.labels, size)
        self.unlabelled = np.delete(np.arange(size), self.labelled)  # (n,)

    @classmethod
    def open(
        cls,
        views: Mapping[str, Path],
        labels_csv: Path,
        *,
        device: str = "cpu",
        size: int | None = None,
        expect: Mapping[str, Any] | None = None,
    ) -> Pool:
        """The pool of a finished embedding.

        views: name -> pool/<view>.h5; may be empty for a strategy that looks at none
        labels_csv: the labelled set
        size: number of training examples; needed where there are no views to tell it
        expect: keys of the cell (dataset, seed, round, ...) that every file must have been made for

        Raises AllroundError for files that are damaged, belong elsewhere, or do not fit each other.
        """
        labels = read_labels(Path(labels_csv), expect)
        fields: dict[str, Field] = {}
        for name, path in views.items():
            view = open_view(Path(path), name, expect)
            same_dataset(Path(path), view.digest, Path(labels_csv), labels.digest)
            if size is not None and view.rows != size:
                raise AllroundError(
                    f"{path}: has {view.rows} rows for {size} training examples; delete it and run again."
                )
            size = view.rows
            fields |= {field: _stored(view, field) for field in view.fields}
        if size is None:
            raise AllroundError("Pool.open without views cannot know the pool's size; give it as size=.")
        return cls(fields, size=size, labelled=labels.index, labels=labels.label, device=device, views=frozenset(views))

    @classmethod
    def from_arrays(
        cls,
        features: Any = None,
        logits: Any = None,
        labelled: Sequence[int] | np.ndarray = (),
        labels: Sequence[int] | np.ndarray | None = None,
        *,
        mc_logits: Any = None,
        size: int | None = None,
        device: str | None = None,
    ) -> Pool:
        """A pool of arrays (numpy or torch, not copied) with one row per training example, labelled ones included.

        features: (N, d), the input of the model's last layer
        logits: (N, c)
        labelled: indices of the examples that have a label; labels: their labels
        mc_logits: (t, N, c), t stochastic forward passes
        size: N, where no array tells it
        device: default: where the first tensor lies, the CPU for numpy

        Raises AllroundError for shapes that do not fit each other.
        """
        arrays = {"features": features, "logits": logits, "mc_logits": mc_logits}
        fields = {name: _held(name, array) for name, array in arrays.items() if array is not None}
        sizes = {name: arrays[name].shape[ROW_AXIS.get(name, 0)] for name in fields}
        if size is not None:
            sizes["size"] = size
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{name}: {rows}" for name, rows in sizes.items())
            fault = f"rows differ ({found})" if found else "no array and no size"
            raise AllroundError(f"Pool.from_arrays: {fault}; every array has one row per training example.")
        tensors = (array for array in arrays.values() if hasattr(array, "device") and hasattr(array, "is_cuda"))
        device = device or next((str(tensor.device) for tensor in tensors), "cpu")
        views = {"outputs"} if {"features", "logits"} & set(fields) else set()
        views |= {"mc_dropout"} if "mc_logits" in fields else set()
        return cls(
            fields,
            size=next(iter(sizes.values())),
            labelled=np.asarray(labelled, dtype=np.int64),
            labels=labels,
            device=device,
            views=frozenset(views),
        )

    def __len__(self) -> int:
        """Number of unlabelled examples n."""
        return len(self.unlabelled)

    # --- rows ---------------------------------------------------------------------------------------------------------

    @property
    def n_classes(self) -> int:
        """Number of classes c, the width of the logits."""
        return self._field("logits").row[-1]

    @cached_property
    def features(self) -> torch.Tensor:
        """(n, d) features of the unlabelled examples; 16-bit floats stay as they are stored, else float32."""
        return self._gather("features", self.unlabelled)

    @cached_property
    def logits(self) -> torch.Tensor:
        """(n, c) float32 logits of the unlabelled examples."""
        return self._gather("logits", self.unlabelled)

    @property
    def probabilities(self) -> torch.Tensor:
        """(n, c) float32 class probabilities of the unlabelled examples."""
        return self._gather("probabilities", self.unlabelled)

    @cached_property
    def mc_logits(self) -> torch.Tensor:
        """(t, n, c) float32 logits of t stochastic forward passes."""
        return self._gather("mc_logits", self.unlabelled)

    @cached_property
    def labelled_features(self) -> torch.Tensor:
        """(m, d) features of the labelled examples, in order of acquisition."""
        return self._gather("features", self.labelled)

    @cached_property
    def labelled_logits(self) -> torch.Tensor:
        """(m, c) float32 logits of the labelled examples, in order of acquisition."""
        return self._gather("logits", self.labelled)

    @property
    def labelled_probabilities(self) -> torch.Tensor:
        """(m, c) float32 class probabilities of the labelled examples, in order of acquisition."""
        return self._gather("probabilities", self.labelled)

    def map(self, function: Callable[..., torch.Tensor], *fields: str) -> torch.Tensor:
        """function(block of each field, ...) over blocks of unlabelled rows, concatenated along dimension 0.

        fields: 'features', 'logits', 'probabilities', 'mc_logits' (blocks (t, b, c)) or another field of a view
        function: takes (b, ...) tensors on the device and returns a (b, ...) tensor
        """
        import torch

        out = None
        for place, blocks in self._blocks(fields, self.unlabelled):
            part = function(*blocks)
            if out is None:  # not a list of parts: small ones, kept between large blocks, keep the heap from shrinking
                out = torch.empty((len(self), *part.shape[1:]), dtype=part.dtype, device=part.device)
            out[place] = part
        return out

    def take(self, field: str, rows: torch.Tensor) -> torch.Tensor:
        """Some rows of a field, in the order given: rows (b,) count as those of features, logits, ... do."""
        return self._gather(field, self.unlabelled[rows.cpu().numpy()])

    def _field(self, name: str) -> Field:
        source = DERIVED.get(name, name)
        if source not in self.fields:
            has = ", ".join(sorted(self.fields)) or "none"
            raise AllroundError(f"the pool has no {source}; give {source}= or a view that holds them. It has: {has}.")
        return self.fields[source]

    def _blocks(self, fields: Sequence[str], rows: np.ndarray) -> Iterator[tuple[slice, list[torch.Tensor]]]:
        """For consecutive stretches of the ascending indices `rows`: their place in rows, and a block of each field."""
        width = sum(int(np.prod(self._field(name).row)) for name in fields)
        step = max(1, BLOCK_BYTES // (4 * width))
        if not len(rows):  # one empty block, which has the shape of a row
            yield slice(0, 0), [self._block(name, 0, 0, rows) for name in fields]
        for start in range(0, self.size, step):
            stop = min(start + step, self.size)
            place = slice(*np.searchsorted(rows, (start, stop)).tolist())
            if place.start < place.stop:
                yield place, [self._block(name, start, stop, rows[place]) for name in fields]

    def _block(self, name: str, start: int, stop: int, rows: np.ndarray) -> torch.Tensor:
        """The given rows, which lie in start..stop, of one field, on the device."""
        import torch

        field, axis = self._field(name), ROW_AXIS.get(name, 0)
        block = _tensor(field.read(start, stop), name, self.device)
        if len(rows) < stop - start:
            block = block.index_select(axis, torch.from_numpy(rows - start).to(self.device))
        # One pass and no mask: a sum is finite only if all terms are. The exact test runs where the sum overflowed.
        if not bool(block.sum(dtype=torch.float32).isfinite()) and not bool(block.isfinite().all()):
            wrong = (~block.isfinite()).movedim(axis, 0).flatten(1).any(1).nonzero()[0].item()
            fault = f"{DERIVED.get(name, name)} of example {rows[wrong]} are not finite"
            raise AllroundError(
                f"{field.where}: {fault}; the training that made them diverged, or the input is damaged."
            )
        return block.softmax(1) if name == "probabilities" else block

    def _gather(self, name: str, rows: np.ndarray) -> torch.Tensor:
        """The rows of one field, in the order of the dataset indices `rows`, in one tensor on the device."""
        import torch

        if self._field(name).in_memory and np.array_equal(rows, np.arange(self.size)):
            return self._block(name, 0, self.size, rows)  # no copy
        order, axis = np.argsort(rows), ROW_AXIS.get(name, 0)
        out = None
        for place, (block,) in self._blocks((name,), rows[order]):
            if out is None:
                shape = list(block.shape)
                shape[axis] = len(rows)
                out = torch.empty(shape, dtype=block.dtype, device=block.device)
            out.narrow(axis, place.start, place.stop - place.start).copy_(block)
        if (np.diff(order) < 0).any():
            out = out.index_select(axis, torch.from_numpy(np.argsort(order)).to(self.device))
        return out

    # --- picks --------------------------------------------------------------------------------------------------------

    def least(self, scores: torch.Tensor | np.ndarray, budget: int) -> Picks:
        """The `budget` unlabelled examples with the least scores (n,), least first; ties to the lower index."""
        return self._sorted(scores, budget, descending=False)

    def greatest(self, scores: torch.Tensor | np.ndarray, budget: int) -> Picks:
        """The `budget` unlabelled examples with the greatest scores (n,), greatest first; ties to the lower index."""
        return self._sorted(scores, budget, descending=True)

    def picks(self, rows: torch.Tensor, scores: torch.Tensor | None = None) -> Picks:
        """Picks of the given rows of features, logits, ... (b,), best first, with their scores (b,)."""
        return Picks(self.unlabelled[rows.cpu().numpy()], None if scores is None else scores.double().cpu().numpy())

    def _sorted(self, scores: torch.Tensor | np.ndarray, budget: int, descending: bool) -> Picks:
        import torch

        scores = torch.as_tensor(scores)
        if scores.shape != self.unlabelled.shape:
            shape, n = tuple(scores.shape), len(self)
            raise AllroundError(f"scores have shape {shape}; one for each of the {n} unlabelled examples is needed.")
        if not bool(scores.isfinite().all()):
            worst = self.unlabelled[(~scores.isfinite()).nonzero()[0].item()]
            raise AllroundError(f"the score of example {worst} is not finite; check the strategy's formula.")
        # A stable sort and not topk, whose order among equals differs between devices.
        values, rows = scores.sort(stable=True, descending=descending)
        return self.picks(rows[:budget], values[:budget])


def _stored(view: Any, name: str) -> Field:
    """A field of a view file."""
    return Field(str(view.path), view.fields[name], lambda start, stop: view.read(name, start, stop), in_memory=False)


def _held(name: str, array: Any) -> Field:
    """A field in memory."""
    axis, rank = ROW_AXIS.get(name, 0), 3 if name == "mc_logits" else 2
    if not hasattr(array, "shape") or len(array.shape) != rank:
        needed = "(t, N, c)" if rank == 3 else "(N, columns)"
        found = tuple(array.shape) if hasattr(array, "shape") else type(array).__name__
        raise AllroundError(f"Pool.from_arrays: {name} must be an array of shape {needed}, not {found}.")
    row = tuple(array.shape[:axis]) + tuple(array.shape[axis + 1 :])
    return Field(name, row, lambda start, stop: array[(slice(None),) * axis + (slice(start, stop),)], in_memory=True)


def _tensor(block: Any, name: str, device: str) -> torch.Tensor:
    """Rows as a tensor on the device in the type that strategies compute with."""
    import torch

    if isinstance(block, np.ndarray):
        block = torch.from_numpy(block if block.flags.writeable else block.copy())
    block = block.detach().to(device)
    keep = name in HALF_IS_ENOUGH and block.dtype in (torch.float16, torch.bfloat16)
    return block if keep else block.float()


def _check_labelled(labelled: np.ndarray, labels: np.ndarray | None, size: int) -> None:
    if labels is not None and len(labels) != len(labelled):
        raise AllroundError(f"{len(labelled)} labelled examples but {len(labels)} labels; give one label for each.")
    if len(labelled) and not 0 <= labelled.min() <= labelled.max() < size:
        raise AllroundError(
            f"labelled indices run from {labelled.min()} to {labelled.max()}; allowed: 0 to {size - 1}."
        )
    if len(np.unique(labelled)) != len(labelled):
        raise AllroundError("an example is labelled twice; every index may occur once.")
