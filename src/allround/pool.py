"""The pool as a strategy sees it: the outputs of the model, what is labelled already, and named sets of examples.

A pool is a lazy look at view files and labels.csv (`Pool.open`) or at arrays in memory (`Pool.from_arrays`). No row
is read before it is asked for, and then in blocks of bounded memory, so that one-pass scores work from a file larger
than memory. torch is imported with the first row (importing it costs 2 s): a strategy that looks at no view does not
pay for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allround import example_sets
from allround.artifacts import open_view, read_labels, same_dataset
from allround.errors import AllroundError, unknown
from allround.fields import ROW_AXIS, Field, check_model, check_scale, held, moments, stored, tensor, whole
from allround.views import base

if TYPE_CHECKING:
    import torch

    from allround.kernels.rows import Rows
    from allround.learners.model import Classifier

BLOCK_BYTES = 16 << 20  # rows are read in blocks of about this size: small enough for the allocator to use again
VIEWS = {"features": ("outputs",), "logits": ("outputs",), "mc_logits": ("mc_dropout", "ensemble")}  # by field
SPARSE = 8  # where fewer than one row in so many is wanted, rows are read one by one
IMAGE_VALUES = {"cpu": 3 << 16, "cuda": 3 << 19}  # of a block: what a model keeps to find gradients is far larger


class Picks(NamedTuple):
    """What a strategy picked, best first."""

    index: Any  # (budget,) int64, dataset indices
    score: Any = None  # (budget,), what they were picked for, in the strategy's own scale; None where it gives none


class Pool:
    """Unlabelled and labelled examples of one round.

    size: number of training examples N, labelled or not
    unlabelled: (n,) int64 dataset indices, ascending; row i of features, logits, ... belongs to unlabelled[i]
    labelled: (m,) int64 dataset indices in order of acquisition; row i of labelled_features, ... belongs to labelled[i]
    labels: (m,) int64, or None where they are not known
    device: where tensors are put and the arithmetic runs
    views: names of the views that are there; has: these, and 'model' and 'images' where they are
    posterior: whose class probabilities `probabilities` are: 'point', of the one forward pass, else the mean over
        the draws of mc_logits
    sets: name -> (s,) int64 dataset indices of a set of examples, see allround.example_sets
    model: the trained model in evaluation mode on the device, or None
    scale: (mean, std) of the training images on the scale 0..1, which uint8 images are normalised by
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
        model: Classifier | None = None,
        scale: tuple[Sequence[float], Sequence[float]] | None = None,
        sets: Mapping[str, Sequence[int] | np.ndarray] | None = None,
        set_labels: Mapping[str, Sequence[int] | np.ndarray] | None = None,
        classes: Sequence[str] | None = None,
        truth: np.ndarray | None = None,
    ):
        self.fields, self.size, self.device, self.views = dict(fields), size, device, views
        self.posterior, self.model, self.scale, self.classes, self.truth = "point", model, scale, classes, truth
        self.has = views | ({"model"} if model is not None else set()) | ({"images"} & set(fields))
        check_model(model, device)
        self.labelled = whole("labelled", labelled)
        self.labels = None if labels is None else whole("labels", labels)
        _check_labelled(self.labelled, self.labels, size)
        self.unlabelled = np.delete(np.arange(size), self.labelled)  # (n,)
        self.sets: dict[str, np.ndarray] = {}
        self._set_labels: dict[str, np.ndarray] = {}
        for name in (*(sets or ()), *(set_labels or ())):
            if name not in example_sets.NAMES:
                raise unknown("set", name, example_sets.NAMES, "pool")
        for name, index in (sets or {}).items():
            known = (set_labels or {}).get(name)
            labels = None if known is None else whole(f"labels of set '{name}'", known)
            self._add_set(name, whole(f"set '{name}'", index), labels)

    @classmethod
    def open(
        cls,
        views: Mapping[str, Path],
        labels_csv: Path,
        *,
        device: str = "cpu",
        size: int | None = None,
        expect: Mapping[str, Any] | None = None,
        images: Any = None,
        **more: Any,
    ) -> Pool:
        """The pool of a finished embedding.

        views: name -> pool/<view>.h5; may be empty for a strategy that looks at none
        labels_csv: the labelled set
        size: number of training examples; needed where there are no views to tell it
        expect: keys of the cell (dataset, seed, round, ...) that every file must have been made for
        images: (N, h, w, channels) uint8, read lazily; more: model, scale, classes and truth, as Pool takes them

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
            fields |= {field: stored(view, field) for field in view.fields}
        if size is None:
            raise AllroundError("Pool.open without views cannot know the pool's size; give it as size=.")
        if images is not None:
            fields["images"] = held("images", images, in_memory=False)
            check_scale(images, more.get("scale"))
        there = frozenset(base(name) for name in views)
        return cls(fields, size=size, labelled=labels.index, labels=labels.label, device=device, views=there, **more)

    @classmethod
    def from_arrays(
        cls,
        features: Any = None,
        logits: Any = None,
        labelled: Sequence[int] | np.ndarray = (),
        labels: Sequence[int] | np.ndarray | None = None,
        *,
        mc_logits: Any = None,
        images: Any = None,
        size: int | None = None,
        device: str | None = None,
        **more: Any,
    ) -> Pool:
        """A pool of arrays (numpy or torch, not copied) with one row per training example, labelled ones included.

        features: (N, d), the input of the model's last layer
        logits: (N, c)
        labelled: indices of the examples that have a label; labels: their labels
        mc_logits: (t, N, c), t draws of the posterior: passes with dropout, or members of an ensemble
        images: (N, h, w, channels) uint8, normalised by `scale`, or (N, channels, h, w) floats, taken as they are
        size: N, where no array tells it
        device: default: where the first tensor lies, the CPU for numpy
        more: model, scale, sets (name -> indices), set_labels (name -> labels), classes and truth, as Pool takes them

        Raises AllroundError for shapes that do not fit each other.
        """
        arrays = {"features": features, "logits": logits, "mc_logits": mc_logits, "images": images}
        fields = {name: held(name, array) for name, array in arrays.items() if array is not None}
        if images is not None:
            check_scale(images, more.get("scale"))
        sizes = {name: arrays[name].shape[ROW_AXIS.get(name, 0)] for name in fields}
        if size is not None:
            sizes["size"] = size
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{name}: {rows}" for name, rows in sizes.items())
            fault = f"rows differ ({found})" if found else "no array and no size"
            raise AllroundError(f"Pool.from_arrays: {fault}; every array has one row per training example.")
        tensors = (array for array in arrays.values() if hasattr(array, "device") and hasattr(array, "is_cuda"))
        device = device or next((str(tensor.device) for tensor in tensors), "cpu")
        return cls(
            fields,
            size=next(iter(sizes.values())),
            labelled=labelled,
            labels=labels,
            device=device,
            views=frozenset(view for name in fields for view in VIEWS.get(name, ())),
            **more,
        )

    def __len__(self) -> int:
        """Number of unlabelled examples n."""
        return len(self.unlabelled)

    def prepared(self, *, posterior: str = "point", sets: Mapping[str, Any] | None = None, where: str = "pool") -> Pool:
        """The same pool under a posterior, with the sets that an entry names (see allround.example_sets).

        Members of sets are no candidates: those that are not labelled leave `unlabelled`. Nothing is read.
        """
        pool = self._copied(self.unlabelled)
        pool.posterior, pool.sets, pool._set_labels = posterior, dict(self.sets), dict(self._set_labels)
        known = {"labelled": self.labelled, "labels": self.labels, "classes": self.classes, "truth": self.truth}
        for name, spec in (sets or {}).items():
            pool._add_set(
                name, *example_sets.resolve(spec, f"{where} hyperparameter '{name}'", size=self.size, **known)
            )
        for name, index in pool._set_labels.items():
            if "logits" in self.fields and not 0 <= index.min() <= index.max() < self.n_classes:
                raise AllroundError(
                    f"{where} set '{name}': labels run from {index.min()} to {index.max()}; allowed: 0 to "
                    f"{self.n_classes - 1}, the columns of the logits."
                )
        if pool.sets:
            pool.unlabelled = np.setdiff1d(pool.unlabelled, np.concatenate(list(pool.sets.values())))
        return pool

    def part(self, rows: np.ndarray) -> Pool:
        """The pool with some of its unlabelled examples alone, by ascending rows of features, logits, ..."""
        return self._copied(self.unlabelled[rows])

    def _copied(self, unlabelled: np.ndarray) -> Pool:
        pool = copy.copy(self)
        for name in ("features", "logits", "mc_logits"):  # cached rows of the unlabelled examples
            pool.__dict__.pop(name, None)
        pool.unlabelled = unlabelled
        return pool

    def _add_set(self, name: str, index: np.ndarray, labels: np.ndarray | None) -> None:
        if not len(index) or index.min() < 0 or index.max() >= self.size or len(np.unique(index)) != len(index):
            raise AllroundError(f"set '{name}': must hold distinct indices of 0 to {self.size - 1}, at least one.")
        if labels is not None and len(labels) != len(index):
            raise AllroundError(f"set '{name}': {len(index)} examples but {len(labels)} labels; give one for each.")
        self.sets[name] = index
        if labels is not None:
            self._set_labels[name] = labels

    # --- rows ---------------------------------------------------------------------------------------------------------

    @property
    def n_classes(self) -> int:
        """Number of classes c, the width of the logits."""
        return self._field("probabilities").row[-1]

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

    @cached_property
    def labelled_mc_logits(self) -> torch.Tensor:
        """(t, m, c) float32 logits of t draws of the posterior for the labelled examples."""
        return self._gather("mc_logits", self.labelled)

    def of(self, name: str, field: str) -> torch.Tensor:
        """A field's rows of the examples of a set, in the set's order: of('query', 'features') is (s, d)."""
        if name not in self.sets:
            raise AllroundError(f"the pool has no set '{name}'; give sets={{'{name}': indices}}.")
        return self._gather(field, self.sets[name])

    def set_labels(self, name: str) -> np.ndarray:
        """(s,) int64 labels of the examples of a set."""
        if name not in self._set_labels:
            raise AllroundError(f"the labels of set '{name}' are not known; give them (set_labels=, a column label).")
        return self._set_labels[name]

    def image_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised values, (channels, 1, 1) each, of pixels 0 and 255; infinite where images came as floats."""
        import torch

        if self.scale is None:
            channels = self._field("images").row[0]
            edge = torch.full((channels, 1, 1), torch.inf, device=self.device)
            return -edge, edge
        mean, std = (value[:, None, None] for value in moments(self.scale, self.device))
        return -mean / std, (1 - mean) / std

    def map(self, function: Callable[..., torch.Tensor], *fields: str) -> torch.Tensor:
        """function(block of each field, ...) over blocks of unlabelled rows, concatenated along dimension 0.

        fields: 'features', 'logits', 'probabilities', 'mc_logits' (blocks (t, b, c)), 'images' (normalised, blocks
            (b, channels, h, w)) or another field of a view
        function: takes (b, ...) tensors on the device and returns a (b, ...) tensor
        """
        return self._map(function, fields, self.unlabelled)

    def rows(self, *fields: str, labelled: bool = False, **through: Callable[[torch.Tensor], torch.Tensor]) -> Rows:
        """Rows of factors for kernels that pass over them again and again: each a field as it is, or through a function
        of its blocks: rows("features", probabilities=residuals).

        They are held in memory where they take less than a quarter of what this process may still have of it; else
        every pass reads them anew, in blocks that begin and end at the same rows.
        labelled: the labelled examples in the order of their indices, not the unlabelled ones
        """
        from allround.kernels.rows import Rows, block_bytes, held, room

        index = np.sort(self.labelled) if labelled else self.unlabelled
        factors = dict.fromkeys(fields) | through
        size = block_bytes(self.device)

        def of(name: str, block: torch.Tensor) -> torch.Tensor:
            return block if factors[name] is None else factors[name](block)

        def blocks() -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
            for place, raw in self._blocks(tuple(factors), index, size):
                yield place, tuple(map(of, factors, raw))

        def take(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            some = index[rows.cpu().numpy()]
            return tuple(of(name, self._gather(name, some)) for name in factors)

        def whole(name: str) -> torch.Tensor:
            if factors[name] is not None:
                return self._map(factors[name], (name,), index)
            return self.features if name == "features" and not labelled else self._gather(name, index)

        first = [of(name, self._block(name, int(i), int(i) + 1, index[:1])) for name in factors for i in index[:1]]
        if len(index) * sum(row.numel() * row.element_size() for row in first) > room(self.device) / 4:
            return Rows(len(index), first[0].device, blocks, take)
        places = [place for place, *_ in self._stretches(tuple(factors), index, size)]
        return held(*map(whole, factors), places=places)

    def take(self, field: str, rows: torch.Tensor) -> torch.Tensor:
        """Some rows of a field, in the order given: rows (b,) count as those of features, logits, ... do."""
        return self._gather(field, self.unlabelled[rows.cpu().numpy()])

    def _source(self, name: str) -> str:
        """The field that a field is computed from: probabilities come from logits."""
        if name != "probabilities":
            return name
        return "logits" if self.posterior == "point" else "mc_logits"

    def _field(self, name: str) -> Field:
        source = self._source(name)
        if source not in self.fields:
            has = ", ".join(sorted(self.fields)) or "none"
            raise AllroundError(f"the pool has no {source}; give {source}= or a view that holds them. It has: {has}.")
        return self.fields[source]

    def _map(self, function: Callable[..., torch.Tensor], fields: Sequence[str], rows: np.ndarray) -> torch.Tensor:
        """As map, over the ascending indices `rows`."""
        import torch

        out = None
        for place, blocks in self._blocks(fields, rows):
            part = function(*blocks)
            if out is None:  # not a list of parts: small ones, kept between large blocks, keep the heap from shrinking
                out = torch.empty((len(rows), *part.shape[1:]), dtype=part.dtype, device=part.device)
            out[place] = part
        return out

    def _blocks(
        self, fields: Sequence[str], rows: np.ndarray, size: int | None = None
    ) -> Iterator[tuple[slice, list[torch.Tensor]]]:
        """For consecutive stretches of the ascending indices `rows`: their place in rows, and a block of each field."""
        if not len(rows):  # one empty block, which has the shape of a row
            yield slice(0, 0), [self._block(name, 0, 0, rows) for name in fields]
        for place, start, stop in self._stretches(fields, rows, size or BLOCK_BYTES):
            yield place, [self._block(name, start, stop, rows[place]) for name in fields]

    def _stretches(self, fields: Sequence[str], rows: np.ndarray, size: int) -> Iterator[tuple[slice, int, int]]:
        """Stretches start..stop of the pool, of about `size` bytes, and the places in rows of those that lie there."""
        width = sum(int(np.prod(self._field(name).row)) for name in fields)
        step = max(1, size // (4 * width))
        if "images" in fields:
            step = max(1, IMAGE_VALUES[self.device.partition(":")[0]] // int(np.prod(self._field("images").row)))
        for start in range(0, self.size, step):
            stop = min(start + step, self.size)
            place = slice(*np.searchsorted(rows, (start, stop)).tolist())
            if place.start < place.stop:
                yield place, start, stop

    def _block(self, name: str, start: int, stop: int, rows: np.ndarray) -> torch.Tensor:
        """The given rows, which lie in start..stop, of one field, on the device."""
        import torch

        field, axis = self._field(name), ROW_AXIS.get(self._source(name), 0)
        if 0 < len(rows) * SPARSE < stop - start and not field.in_memory:
            block = tensor(np.concatenate([field.read(row, row + 1) for row in rows.tolist()], axis), name, self.device)
        else:
            block = tensor(field.read(start, stop), name, self.device)
            if len(rows) < stop - start:
                block = block.index_select(axis, torch.from_numpy(rows - start).to(self.device))
        # One pass and no mask: a sum is finite only if all terms are. The exact test runs where the sum overflowed.
        if not bool(block.sum(dtype=torch.float32).isfinite()) and not bool(block.isfinite().all()):
            wrong = (~block.isfinite()).movedim(axis, 0).flatten(1).any(1).nonzero()[0].item()
            fault = f"{self._source(name)} of example {rows[wrong]} are not finite"
            raise AllroundError(
                f"{field.where}: {fault}; the training that made them diverged, or the input is damaged."
            )
        if name == "probabilities":
            return block.softmax(1) if self.posterior == "point" else block.softmax(2).mean(0)
        if name == "images" and self.scale is not None:
            from allround.learners.augmentation import normalise

            return normalise(block, *moments(self.scale, self.device))
        return block

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


def _check_labelled(labelled: np.ndarray, labels: np.ndarray | None, size: int) -> None:
    if labels is not None and len(labels) != len(labelled):
        raise AllroundError(f"{len(labelled)} labelled examples but {len(labels)} labels; give one label for each.")
    if len(labelled) and not 0 <= labelled.min() <= labelled.max() < size:
        raise AllroundError(
            f"labelled indices run from {labelled.min()} to {labelled.max()}; allowed: 0 to {size - 1}."
        )
    if len(np.unique(labelled)) != len(labelled):
        raise AllroundError("an example is labelled twice; every index may occur once.")
