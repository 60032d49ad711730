"""Weights of your own that a learner starts from in every round: `initialisation: {checkpoint: <file>}`.

The file is what torch.save wrote of tensors: the state of a network of the same architecture, by the names that its
library gives them, however deep it lies (`state_dict.module.encoder.conv1.weight`), or a checkpoint.pt of allround.
The body takes its weights from the file. The head is drawn anew, unless a checkpoint of allround has the same classes.

What the file says is part of a training's identity, by a digest of it; where it lies is not. A relative path counts
from the folder that Snakemake runs in. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.artifacts import load_tensors
from allround.errors import AllroundError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from allround.learners.model import Classifier

KEYS = ("checkpoint", "prefix")
BODY, HEAD = "weights.body.", "weights.head."  # where a checkpoint of allround has them
UNNEEDED = "num_batches_tracked"  # BatchNorm's count of batches, which decides nothing and which many files lack


def checked(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entry, complete: {"checkpoint": path, "prefix": str or None, "sha256": digest of the file}.

    AllroundError, which begins with `where`: an unknown key, or a file that cannot be read
    """
    for key in entry:
        if key not in KEYS:
            raise unknown("key of initialisation", key, KEYS, where)
    file, prefix = entry.get("checkpoint"), entry.get("prefix")
    if not isinstance(file, str) or not file:
        raise AllroundError(f"{where}: initialisation needs the path of a file, {{checkpoint: <file>}}, not {file!r}.")
    if prefix is not None and not isinstance(prefix, str):
        raise AllroundError(f"{where}: prefix is {prefix!r}; allowed: what the names of the wanted weights begin with.")
    return {"checkpoint": file, "prefix": prefix, "sha256": _digest(file, where)}


def starter(
    path: Path, initialisation: Mapping[str, Any], classes: Sequence[str], log: Callable[[str], None]
) -> Callable[[Classifier], None]:
    """What puts a file's weights into a model that was just drawn.

    initialisation: of the learner's settings; classes: names, to be compared with those of a checkpoint of allround
    AllroundError: the file has changed since the run was planned, or holds no weights
    """
    if _digest(path, str(path)) != initialisation["sha256"]:
        raise AllroundError(f"{path}: has changed since the run was planned; start the run again.")
    try:
        payload = load_tensors(path)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ... for what is no such file
        fault = str(error).splitlines()[0] if str(error) else ""
        raise AllroundError(
            f"{path}: not a file of weights ({type(error).__name__}: {fault[:150]}); write one of tensors alone, as in "
            "torch.save(model.state_dict(), file)."
        ) from None
    tensors = dict(_tensors(payload))
    same_classes = isinstance(payload, Mapping) and payload.get("classes") == list(classes)

    def start(model: Classifier) -> None:
        body, step = model.body.state_dict(), _step(model)
        shapes = {name.removeprefix(step): tuple(tensor.shape) for name, tensor in body.items()}
        prefix = _prefix(shapes, tensors, initialisation["prefix"], path)
        found = {name: prefix + name.removeprefix(step) for name in body}
        state = {name: tensors[there] for name, there in found.items() if there in tensors}
        model.body.load_state_dict(state, strict=False)  # what a file may lack is checked in _prefix
        head = {name: tensors.get(HEAD + name) for name in model.head.state_dict()}
        known = prefix == BODY + step and same_classes and None not in head.values()
        if known:
            model.head.load_state_dict(head)
        log(f"starts from {path}, {prefix}*: {len(state)} tensors; the head is {'its own' if known else 'new'}")

    return start


def _digest(file: str | Path, where: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise AllroundError(
            f"{where}: cannot read the checkpoint {file} ({error.strerror}); put it there, or correct the path."
        ) from None


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested mappings, with the path to them: ("state_dict.conv1.weight", ...)."""
    import torch  # 2 s to import: paid by the trainings that start from a file

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))


def _step(model: Classifier) -> str:
    """What the names of all tensors of the body begin with: "1." where it is a library's network after a step of ours.

    torchvision's is, for grey images. A file from elsewhere does not have that part of the names.
    """
    names = list(model.body.state_dict())
    first = {name.partition(".")[0] for name in names}
    return f"{first.pop()}." if len(first) == 1 and all(name.count(".") > 1 for name in names) else ""


def _prefix(shapes: Mapping[str, tuple], tensors: Mapping[str, Tensor], wanted: str | None, path: Path) -> str:
    """What the names of the body's weights begin with in the file.

    shapes: of the tensors in the body, by their names; wanted: the prefix that the entry names, if any
    AllroundError: nothing in the file fits, or more than one part of it
    """
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(UNNEEDED)}
    one = next(iter(shapes))
    found = {name.removesuffix(one) for name in tensors if name == one or name.endswith("." + one)}
    if wanted == "":
        found &= {""}
    elif wanted is not None:  # the end of it is enough: "encoder_q" for state_dict.module.encoder_q.
        found = {prefix for prefix in found if f".{prefix}".endswith(f".{wanted.strip('.')}.")}
    missing = {prefix: [name for name in shapes if prefix + name not in tensors] for prefix in found}
    whole = [prefix for prefix in sorted(found) if not missing[prefix]]
    other = {
        prefix: [name for name in shapes if tuple(tensors[prefix + name].shape) != shapes[name]] for prefix in whole
    }
    fits = [prefix for prefix in whole if not other[prefix]]
    if len(fits) == 1:
        return fits[0]
    if fits:
        parts = ", ".join(repr(prefix) for prefix in fits)
        raise AllroundError(f"{path}: holds several networks that fit; choose one with prefix, of: {parts}.")
    if whole:
        name = other[whole[0]][0]
        there = tuple(tensors[whole[0] + name].shape)
        fault = f"{whole[0]}{name} is {there} in the file and {shapes[name]} in the learner"
    elif found:
        best = min(sorted(found), key=lambda prefix: len(missing[prefix]))
        fault = f"{len(missing[best])} of {len(shapes)} tensors are missing, the first is {best}{missing[best][0]}"
    else:
        some = ", ".join(list(tensors)[:3]) or "no tensor"
        fault = f"it has {some}, and nothing called {'*' if wanted is None else wanted.rstrip('.')}.{one}"
    raise AllroundError(f"{path}: its weights do not fit the learner's architecture ({fault}).")
