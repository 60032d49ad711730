"""Weights of your own that a learner starts from in every round: `initialisation: {checkpoint: <file>}`.

The file is what torch.save wrote of tensors: the state of a network of the same architecture, by the names that its
library gives them, however deep it lies (`state_dict.module.encoder.conv1.weight`), or a checkpoint.pt of allround.
The body takes its weights from the file, all of them or none. The head is drawn anew, unless a checkpoint of allround
has the same classes.

What the file says is part of a training's identity, by a digest of it; where it lies is not. A relative path counts
from the folder that Snakemake runs in. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    path = Path(file).expanduser()
    return {"checkpoint": str(path), "prefix": prefix, "sha256": _digest(path, where)}


def starter(
    path: Path, initialisation: Mapping[str, Any], classes: Sequence[str], log: Callable[[str], None]
) -> Callable[[Classifier], None]:
    """What puts a file's weights into a model that was just drawn.

    initialisation: of the learner's settings; classes: names, to be compared with those of a checkpoint of allround
    AllroundError: the file has changed since the run was planned; when called also: it does not fit the model
    """
    if _digest(path, str(path)) != initialisation["sha256"]:
        raise AllroundError(f"{path}: has changed since the run was planned; start the run again.")

    def start(model: Classifier) -> None:
        payload = _payload(path)
        tensors, body, step = dict(_tensors(payload)), model.body.state_dict(), _step(model)
        shapes = {name.removeprefix(step): tuple(tensor.shape) for name, tensor in body.items()}
        prefix = _prefix(shapes, tensors, initialisation["prefix"], path)
        _check_whole(shapes, tensors, prefix, model.head.in_features, inside=prefix == BODY + step, path=path)
        there = {name: prefix + name.removeprefix(step) for name in body}
        state = {name: tensors[other] for name, other in there.items() if other in tensors}
        head = {name: tensors.get(HEAD + name) for name in model.head.state_dict()}
        own_head = prefix == BODY + step and payload.get("classes") == list(classes) and None not in head.values()
        _check_numbers({**state, **(head if own_head else {})}, path)
        model.body.load_state_dict(state, strict=False)  # what it may lack, _prefix knows
        if own_head:
            model.head.load_state_dict(head)
        log(f"starts from {path}, {prefix}*: {len(state)} tensors; the head is {'its own' if own_head else 'new'}")

    return start


def _digest(path: Path, where: str) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        fault = getattr(error, "strerror", None) or error
        raise AllroundError(
            f"{where}: cannot read the checkpoint {path} ({fault}); put it there, or correct the path."
        ) from None


def _payload(path: Path) -> Any:
    """What torch.save wrote, of whatever version; the digest stands for that the file is as it was."""
    import torch  # 2 s to import: paid by the trainings that start from a file

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ... for what is no such file
        raise AllroundError(
            f"{path}: not a file of tensors alone that torch.load reads ({type(error).__name__}); load it where it was "
            "made, and write its weights with torch.save(model.state_dict(), file)."
        ) from None


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested mappings, with the path to them: ("state_dict.conv1.weight", ...)."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
    elif hasattr(value, "untyped_storage"):
        yield name, value


def _step(model: Classifier) -> str:
    """What the names of the body's tensors begin with where a step of ours comes before a library's network."""
    from allround.learners.architectures.torchvision_model import ThreeChannels

    first = next(iter(model.body.children()), None)
    return "1." if isinstance(first, ThreeChannels) else ""


def _prefix(shapes: Mapping[str, tuple], tensors: Mapping[str, Tensor], wanted: str | None, path: Path) -> str:
    """What the names of the body's weights begin with in the file.

    shapes: of the tensors in the body, by their names; wanted: the prefix that the entry names, if any
    AllroundError: nothing in the file fits, or more than one part of it
    """
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(UNNEEDED)}
    one = next(iter(shapes))
    found = {name.removesuffix(one) for name in tensors if name == one or name.endswith("." + one)}
    if wanted is not None:  # the end of it is enough: "encoder_q" for state_dict.module.encoder_q.
        exact = f"{wanted.strip('.')}." if wanted else ""
        ends = {prefix for prefix in found if wanted and f".{prefix}".endswith(f".{exact}")}
        found = {exact} if exact in found else ends
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
        fault = f"it has {some}, and nothing called {'*' if wanted is None else wanted.strip('.')}.{one}"
    raise AllroundError(f"{path}: its weights do not fit the learner's architecture ({fault}).")


def _check_whole(
    shapes: Mapping[str, tuple], tensors: Mapping[str, Tensor], prefix: str, width: int, *, inside: bool, path: Path
) -> None:
    """That the file's network is no larger than the learner's: ResNet-34 has all tensors of ResNet-18, and more.

    width: of the features; inside: whether nothing but the body lies under the prefix. Elsewhere there may be other
    modules (projection heads), and in a module that the body has too one linear layer of the features: the old head.
    """
    modules = {name.partition(".")[0] for name in shapes}
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    more = [name for name in names if name not in shapes and (inside or name.partition(".")[0] in modules)]
    head = {name.rpartition(".")[0] for name in more}
    if not inside and len(head) == 1:
        weight = tensors.get(f"{prefix}{head.pop()}.weight")
        if weight is not None and weight.dim() == 2 and weight.shape[1] == width:
            return
    if more:
        raise AllroundError(
            f"{path}: holds a larger network than the learner's, with {prefix}{more[0]} and {len(more) - 1} more "
            "tensors; name its architecture."
        )


def _check_numbers(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if tensor.is_complex() or not bool(tensor.isfinite().all()):
            raise AllroundError(f"{path}: {name} holds numbers that are not finite and real; its training diverged.")
