"""The files that stages hand to each other: one writer and one reader for each kind.

Writers write `<path>.tmp`, flush it to disk and rename it, so that a file that is there is whole. Readers check kind,
completeness, shapes, types and that the file belongs where it lies, and fail in one line that names the file, the
fault and the remedy. Every artifact carries the identity that made it, the digest of its dataset, and sums of what it
holds: a bit that flips on disk is an error, never another result.

CSV artifacts open with one comment line of JSON (`pandas.read_csv(path, comment="#")` skips it).
"""

from __future__ import annotations

import csv
import ctypes
import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from allround.errors import AllroundError
from allround.identity import canonical
from allround.sums import REMEDY, CheckedRows, damaged_archive, row_sums

SUMS = "sums"  # HDF5 files: the group with the sums of the rows
HDF5 = ("v110", "v110")  # the oldest format whose every structure has a checksum: older ones crash or hang if damaged
BLOCK_BYTES = 8 << 20  # images are written in blocks of about this size
CHUNK_BYTES = 1 << 20  # chunks of a view
SPARE_BYTES = 1 << 16  # what an HDF5 file may take beside its arrays
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of <linux/falloc.h>


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield `<path>.tmp` to write to; rename it to `path` once it is whole and on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself survives a power cut
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _bad(path: Path, fault: str, remedy: str = REMEDY) -> AllroundError:
    return AllroundError(f"{path}: {fault}; {remedy}.")


def _check_place(path: Path, identity: str, expect: Mapping[str, Any] | None) -> None:
    with _damage(path):
        cell = dict(json.loads(identity)["cell"])
    for key, value in (expect or {}).items():
        if cell.get(key) != value:
            raise _bad(
                path, f"made for {key} {cell.get(key)!r}, needed for {key} {value!r}: it was moved or copied here"
            )


def same_dataset(path: Path, digest: str, other: Path, other_digest: str) -> None:
    """Refuse to mix artifacts that were made from different versions of a dataset."""
    if digest != other_digest:
        raise _bad(
            path,
            f"made from another version of the dataset than {other} ({digest} against {other_digest})",
            "give the changed dataset a name of its own in the catalogue, or delete what was made from the old one",
        )


def identity_of(path: Path) -> str | None:
    """The identity string inside an artifact; None where the file is missing, unreadable or of a kind without one."""
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8") as file:
                return canonical(json.loads(file.readline().removeprefix("#"))["identity"])
        if path.suffix == ".json":
            return canonical(json.loads(path.read_text(encoding="utf-8"))["identity"])
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                return _text(file, "identity")
    except (OSError, KeyError, ValueError, TypeError):
        pass
    return None


# --- dataset.h5 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    images: (n, height, width, channels) uint8; an array, or anything with `.shape` whose slices are such arrays
    labels: (n,) int64 in 0..C-1
    origin: (n,) int64, the source example's index; duplicates of one example share it
    files: (n,) bytes, where the source has a file an image: its path below the source's folder, as the system has it;
        written to be read by people, no stage needs it
    """

    images: Any
    labels: np.ndarray
    origin: np.ndarray
    files: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset.h5, its images mapped into memory, not loaded. mean and std are per channel on the scale 0..1."""

    path: Path
    name: str
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split
    digest: str
    identity: str


def write_dataset(path: Path, *, identity: str, classes: list[str], train: Split, test: Split) -> None:
    """Write dataset.h5, block by block; mean and std of the training images and the digest are computed on the way."""
    _check_splits(path, classes, train, test)
    sha = hashlib.sha256(canonical(list(classes)).encode())
    size = sum(int(np.prod(split.images.shape)) + 24 * len(split.labels) for split in (train, test))
    size += sum(split.files.nbytes for split in (train, test) if split.files is not None)
    with _replacing_h5(path, size) as file:
        for name, split in (("train", train), ("test", test)):
            group = file.require_group(name)
            moments = _copy_images(file, name, split.images, sha)
            if name == "train":
                mean, std = moments
            for key, values in (("labels", split.labels), ("origin", split.origin)):
                group[key] = np.ascontiguousarray(values, dtype=np.int64)
                sha.update(group[key][:].tobytes())
            if split.files is not None:
                group["files"] = split.files
        file.attrs.update(mean=mean, std=std)
        names = json.dumps(list(classes))
        _complete(file, kind="dataset", identity=identity, classes=names, digest=sha.hexdigest()[:16])


def _copy_images(file: h5py.File, name: str, images: Any, sha: Any) -> tuple[np.ndarray, np.ndarray]:
    """Copy images in blocks into a contiguous dataset; return mean and std per channel on the scale 0..1."""
    n, *shape = images.shape
    out = file.create_dataset(f"{name}/images", shape=(n, *shape), dtype=np.uint8)
    sums = np.empty(n, dtype=np.uint64)
    step = max(1, BLOCK_BYTES // int(np.prod(shape)))
    total, squares = np.zeros(shape[-1]), np.zeros(shape[-1])
    for start in range(0, n, step):
        block = np.ascontiguousarray(images[start : start + step])
        out[start : start + step] = block
        sums[start : start + step] = row_sums(block)
        sha.update(block.tobytes())
        counts = [
            np.bincount(block[..., c].ravel(), minlength=256) for c in range(shape[-1])
        ]  # exact, and no float copy
        total += [count @ np.arange(256.0) for count in counts]
        squares += [count @ np.arange(256.0) ** 2 for count in counts]
    file.require_group(SUMS)[name] = sums  # a group that is made on the way would hold the time
    pixels = n * shape[0] * shape[1]
    mean = total / pixels / 255
    return mean, np.sqrt(np.maximum(squares / pixels / 255**2 - mean**2, 0))


def _check_splits(path: Path, classes: list[str], train: Split, test: Split) -> None:
    for name, split in (("train", train), ("test", test)):
        n, labels = len(split.labels), np.asarray(split.labels)
        if not n:
            raise AllroundError(f"{path}: the {name} split is empty; check the dataset's source.")
        if len(split.images.shape) != 4 or split.images.shape[0] != n or len(split.origin) != n:
            raise AllroundError(
                f"{path}: {name} has {n} labels for images of shape {tuple(split.images.shape)}; "
                "allowed: images [n, height, width, channels] with one label each."
            )
        if split.images.shape[1:] != train.images.shape[1:]:
            raise AllroundError(
                f"{path}: {name} images are {tuple(split.images.shape[1:])}, training images are "
                f"{tuple(train.images.shape[1:])}; all images of a dataset must have one size."
            )
        if labels.min() < 0 or labels.max() >= len(classes):
            raise AllroundError(
                f"{path}: {name} labels run from {labels.min()} to {labels.max()}; allowed: 0 to {len(classes) - 1}, "
                f"one for each of the {len(classes)} classes."
            )
    empty = sorted(set(range(len(classes))) - set(np.unique(train.labels).tolist()))
    if empty:
        raise AllroundError(
            f"{path}: no training image of class {', '.join(repr(classes[c]) for c in empty[:5])}"
            f"{' and others' if len(empty) > 5 else ''}; add images or leave the class out."
        )


def read_dataset(path: Path, name: str | None = None) -> Dataset:
    """Open dataset.h5; `name` is the dataset that it must hold."""
    path = Path(path)
    with _open_h5(path, "dataset") as file, _damage(path):
        identity = _text(file, "identity")
        _check_place(path, identity, {"dataset": name} if name else None)
        return Dataset(
            path=path,
            name=json.loads(identity)["cell"]["dataset"],
            classes=json.loads(_text(file, "classes")),
            mean=tuple(map(float, file.attrs["mean"])),
            std=tuple(map(float, file.attrs["std"])),
            train=_read_split(path, file, "train"),
            test=_read_split(path, file, "test"),
            digest=_text(file, "digest"),
            identity=identity,
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What h5py raises for damaged content becomes one line."""
    try:
        yield
    except (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, PermissionError):
            raise
        raise _bad(path, f"damaged ({type(error).__name__})") from None


def _read_split(path: Path, file: h5py.File, name: str) -> Split:
    images = file[f"{name}/images"]
    mapped = np.memmap(path, np.uint8, "r", offset=images.id.get_offset(), shape=images.shape)
    checked = CheckedRows(f"{path} ({name} images)", mapped, file[f"{SUMS}/{name}"][:])
    return Split(checked, file[f"{name}/labels"][:], file[f"{name}/origin"][:])


def _open_h5(path: Path, kind: str) -> h5py.File:
    if not path.exists():
        raise AllroundError(f"{path}: no such file; run the stage that makes it, or check the path.")
    try:
        file = h5py.File(path, rdcc_nbytes=0)  # no cache of chunks: blocks are read once, single rows need no chunk
    except PermissionError:
        raise
    except OSError as error:
        raise _bad(path, f"not a whole HDF5 file ({error})") from None
    with _damage(path):
        found, complete = _text(file, "kind", "nothing known"), file.attrs.get("complete", False)
    if found != kind or not complete:
        file.close()
        raise _bad(path, f"holds {found}, not a complete {kind}")
    with _damage(path):
        whole = _seal(file) == _text(file, "seal")
    if not whole:
        file.close()
        raise _bad(path, "damaged: it changed on disk after it was written")
    return file


@contextmanager
def _replacing_h5(path: Path, size: int) -> Iterator[h5py.File]:
    """Yield a new HDF5 file of about `size` bytes, for which the disk has room.

    HDF5 keeps some writes that fail to itself, and crashes on others: so its blocks are reserved before it writes.
    """
    with replacing(path) as partial:
        with partial.open("ab") as file:
            reserve(file, size + SPARE_BYTES)
        with h5py.File(partial, "w", libver=HDF5) as file:  # empties the file, and with it the reservation
            with partial.open("ab") as emptied:
                reserve(emptied, size + SPARE_BYTES)
            yield file
        os.truncate(partial, partial.stat().st_size)  # gives back what was not needed


def reserve(file: IO, size: int) -> None:
    """Reserve blocks for the first bytes of an open file, where the system can; OSError: there are not as many."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "fallocate"):
        failed = libc.fallocate(file.fileno(), KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size))
        if failed and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(errno.ENOSPC, "No space left on device", file.name)


def _complete(file: h5py.File, **texts: str) -> None:
    """Say what a file is, now that all of it is there; texts of fixed length, for others lie outside all checksums."""
    file.attrs.update({name: np.bytes_(text.encode()) for name, text in texts.items()})
    file.attrs["complete"] = True
    file.attrs["seal"] = np.bytes_(_seal(file).encode())
    file.flush()  # a full disk is an error here; closing a file may keep it to itself


def _text(file: h5py.File, name: str, default: str | None = None) -> str:
    value = file.attrs[name] if default is None else file.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _seal(file: h5py.File) -> str:
    """Digest of all that an HDF5 artifact says and of its small arrays; rows of the large ones have sums in it.

    ValueError: a part that lies in another file, or that takes code other than HDF5's own to read. A file from a
    stranger must bring all that it holds.
    """
    sha = hashlib.sha256()
    for key in sorted(set(file.attrs) - {"seal"}):
        value = file.attrs[key]
        sha.update(
            canonical([key, _text(file, key) if isinstance(value, bytes) else np.asarray(value).tolist()]).encode()
        )
    for group in (file, *(file[name] for name in file if _inside(file, name) and isinstance(file[name], h5py.Group))):
        for name in group:
            part = group[name] if _inside(group, name) else None
            if not isinstance(part, h5py.Dataset):
                continue
            if part.is_virtual or part.external or part.id.get_create_plist().get_nfilters() or part.dtype.hasobject:
                raise ValueError(f"{part.name} lies elsewhere or is filtered")
            sha.update(canonical([part.name, part.dtype.str, list(part.shape)]).encode())
            if name in ("labels", "origin", "files") or group.name == f"/{SUMS}":
                sha.update(part[:].tobytes())
    return sha.hexdigest()[:16]


def _inside(group: h5py.Group, name: str) -> bool:
    """True for what lies in the group itself; ValueError for a link to somewhere else."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link")
    return True


# --- labels.csv, query.csv --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """The labelled set in order of acquisition: three int64 arrays of equal length."""

    index: np.ndarray
    label: np.ndarray
    round: np.ndarray
    identity: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Query:
    """What a strategy picked, best first: index (b,) int64, score (b,) float64 (NaN where it gives none)."""

    index: np.ndarray
    score: np.ndarray
    identity: str = ""
    digest: str = ""


def write_labels(path: Path, labels: Labels, *, identity: str, digest: str) -> None:
    """Write labels.csv: index,label,round."""
    rows = zip(labels.index.tolist(), labels.label.tolist(), labels.round.tolist(), strict=True)
    _write_csv(path, "labels", ("index", "label", "round"), rows, identity, digest)


def read_labels(path: Path, expect: Mapping[str, Any] | None = None) -> Labels:
    """Read labels.csv; every index occurs once."""
    rows, head = _read_csv(Path(path), "labels", (int, int, int), expect)
    with _damage(path):
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy()
    if len(np.unique(columns[0])) != len(rows):
        raise _bad(path, "an example is labelled twice")
    return Labels(*columns, identity=canonical(head["identity"]), digest=head["dataset"])


def write_query(path: Path, index: np.ndarray, score: np.ndarray | None, *, identity: str, digest: str) -> None:
    """Write query.csv: rank,index,score; the score stays empty where the strategy gives none."""
    scores = [""] * len(index) if score is None else [repr(float(value)) for value in score]
    rows = zip(range(len(index)), map(int, index), scores, strict=True)
    _write_csv(path, "query", ("rank", "index", "score"), rows, identity, digest)


def read_query(path: Path, expect: Mapping[str, Any] | None = None) -> Query:
    """Read query.csv."""
    rows, head = _read_csv(Path(path), "query", (int, int, lambda text: float(text or "nan")), expect)
    with _damage(path):
        index = np.array([row[1] for row in rows], dtype=np.int64)
    if len(np.unique(index)) != len(index):
        raise _bad(path, "an example is picked twice")
    score = np.array([row[2] for row in rows], dtype=np.float64)
    return Query(index, score, identity=canonical(head["identity"]), digest=head["dataset"])


def _write_csv(path: Path, kind: str, columns: tuple, rows: Any, identity: str, digest: str) -> None:
    body = io.StringIO()
    writer = csv.writer(body, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    text = body.getvalue()
    head = {"kind": kind, "dataset": digest, "identity": json.loads(identity)}
    write_text(path, f"# {canonical(head | {'sha256': _sha(canonical(head) + text)})}\n{text}")


def _read_csv(path: Path, kind: str, types: tuple[Callable, ...], expect: Mapping | None) -> tuple[list[list], dict]:
    if not path.exists():
        raise AllroundError(f"{path}: no such file; run the stage that makes it, or check the path.")
    head_line, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    try:
        head = json.loads(head_line.removeprefix("#"))
        intact = head["kind"] == kind and head.pop("sha256") == _sha(canonical(head) + body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _bad(path, f"not a whole {kind} file: its first line is not allround's") from None
    if not intact:
        raise _bad(path, f"not a whole {kind} file: truncated, or edited by hand")
    _check_place(path, canonical(head["identity"]), expect)
    lines = csv.reader(body.splitlines()[1:])
    with _damage(path):
        return [[read(cell) for read, cell in zip(types, line, strict=True)] for line in lines], head


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:16]


# --- metrics.json -----------------------------------------------------------------------------------------------------


def write_metrics(path: Path, metrics: Mapping[str, Any], *, identity: str, digest: str) -> None:
    """Write metrics.json: test accuracy, nll, ece, per-class accuracy, n_labels, epochs, ..."""
    whole = {"kind": "metrics", **metrics, "dataset_digest": digest, "identity": json.loads(identity)}
    write_json(path, whole)


def read_metrics(path: Path, expect: Mapping[str, Any] | None = None) -> dict:
    """Read metrics.json."""
    metrics = read_json(path)
    if metrics.get("kind") != "metrics" or not {"accuracy", "n_labels", "identity"} <= metrics.keys():
        raise _bad(path, "not a metrics file")
    _check_place(path, canonical(metrics["identity"]), expect)
    return metrics


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of what it says."""
    write_text(path, json.dumps({**value, "sha256": _sha_json(dict(value))}, indent=1) + "\n")


def _sha_json(value: dict) -> str:
    return _sha(json.dumps(json.loads(json.dumps(value)), sort_keys=True))


def read_json(path: Path) -> dict:
    """Read a JSON object that write_json has written."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AllroundError(f"{path}: no such file; run the stage that makes it, or check the path.") from None
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"not a whole JSON file ({error})") from None
    if not isinstance(value, dict):
        raise _bad(path, "not a JSON object")
    if value.pop("sha256", None) != _sha_json(value):
        raise _bad(path, "not a whole file of allround: changed on disk, or edited by hand")
    return value


# --- checkpoint.pt ----------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, payload: Mapping[str, Any], *, identity: str, digest: str) -> None:
    """Write checkpoint.pt: weights and what is needed to rebuild the model; only tensors and plain values."""
    import torch  # 2 s to import: paid by the stages that need it

    buffer = io.BytesIO()  # torch.save names its archive after the file; a buffer gives equal bytes for equal models
    torch.save({"kind": "checkpoint", "identity": identity, "dataset_digest": digest, **payload}, buffer)
    with replacing(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path, expect: Mapping[str, Any] | None = None) -> dict:
    """Read checkpoint.pt onto the CPU; never executes code from the file."""
    path = Path(path)
    if not path.exists():
        raise AllroundError(f"{path}: no such file; run the stage that makes it, or check the path.")
    try:
        payload = load_tensors(path)
    except PermissionError:
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ... for a damaged file
        raise _bad(path, f"not a whole checkpoint ({type(error).__name__})") from None
    if not isinstance(payload, dict) or payload.get("kind") != "checkpoint" or "identity" not in payload:
        raise _bad(path, "not a checkpoint of allround")
    _check_place(path, payload["identity"], expect)
    return payload


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, on the CPU: tensors and plain values alone, and only as they were written.

    ValueError, or what torch raises: the file is damaged, or asks for code
    """
    import torch

    if damaged_archive(path):
        raise ValueError("it changed on disk after it was written, or is not whole")
    return torch.load(path, map_location="cpu", weights_only=True)


# --- pool/<view>.h5 ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A view of the pool, read lazily. One row per training example; fields: name -> shape of one example's row."""

    path: Path
    rows: int
    fields: dict[str, tuple[int, ...]]
    identity: str
    digest: str
    file: h5py.File
    sums: dict[str, np.ndarray]  # of a field: (rows,)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop of a field as stored: (b, d); for mc_logits (t, b, c)."""
        if name not in self.fields:
            raise AllroundError(f"{self.path}: has no field '{name}'; it holds {', '.join(self.fields)}.")
        data, draws = self.file[name], name == "mc_logits"
        try:
            rows = data[:, start:stop] if draws else data[start:stop]
        except OSError as error:
            raise _bad(self.path, f"damaged in rows {start} to {stop} ({error})") from None
        if (row_sums(rows, draws) != self.sums[name][start:stop]).any():
            raise _bad(self.path, f"damaged in rows {start} to {stop}: it changed on disk after it was written")
        return rows


class ViewWriter:
    """Takes a view block by block; see create_view."""

    def __init__(self, file: h5py.File, rows: int):
        self.file, self.rows, self.written = file, rows, 0
        self.sums = {name: np.zeros(rows, dtype=np.uint64) for name in file}

    def write(self, start: int, **blocks: np.ndarray) -> None:
        """Write rows start.. of every field; blocks are (b, d), for mc_logits (t, b, c). Blocks come in order."""
        count = {block.shape[1] if name == "mc_logits" else len(block) for name, block in blocks.items()}
        if start != self.written or len(count) != 1 or set(blocks) != set(self.file):
            raise ValueError(f"rows {start}.. of {sorted(blocks)} after {self.written} rows of {sorted(self.file)}")
        stop = start + count.pop()
        for name, block in blocks.items():
            data, draws = self.file[name], name == "mc_logits"
            block = np.ascontiguousarray(block, dtype=data.dtype)
            data[(slice(None), slice(start, stop)) if draws else slice(start, stop)] = block
            self.sums[name][start:stop] = row_sums(block, draws)
        self.written = stop


def view_bytes(rows: int, row_bytes: Iterable[int]) -> int:
    """Size of pool/<view>.h5, but for what it says of itself: whole chunks of every field, and a sum a row."""
    chunks = ((_chunk_rows(rows, size), size) for size in row_bytes)
    return sum(8 * rows + -(-rows // block) * block * size for block, size in chunks)


def _chunk_rows(rows: int, row_bytes: int) -> int:
    return min(rows, max(1, CHUNK_BYTES // row_bytes))


@contextmanager
def create_view(
    path: Path,
    view: str,
    *,
    rows: int,
    fields: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    identity: str,
    digest: str,
) -> Iterator[ViewWriter]:
    """Write pool/<view>.h5 block by block; the file appears once every row has been written.

    fields: name -> shape of one example's row; for mc_logits (t, c), stored as [t, rows, c]
    """
    row = {name: np.dtype(dtypes[name]).itemsize * int(np.prod(shape)) for name, shape in fields.items()}
    with _replacing_h5(path, view_bytes(rows, row.values())) as file:
        for name, shape in fields.items():
            dtype, block = np.dtype(dtypes[name]), _chunk_rows(rows, row[name])
            mc = name == "mc_logits"
            whole = (shape[0], rows, *shape[1:]) if mc else (rows, *shape)
            chunks = (shape[0], block, *shape[1:]) if mc else (block, *shape)
            file.create_dataset(name, shape=whole, dtype=dtype, chunks=chunks)
        out = ViewWriter(file, rows)
        yield out
        if out.written != rows:
            raise ValueError(f"{path}: {out.written} of {rows} rows were written")
        for name, sums in out.sums.items():
            file.require_group(SUMS)[name] = sums
        _complete(file, kind="view", view=view, identity=identity, digest=digest)


def open_view(path: Path, view: str | None = None, expect: Mapping[str, Any] | None = None) -> View:
    """Open pool/<view>.h5 without reading its rows."""
    path = Path(path)
    file = _open_h5(path, "view")
    if view and _text(file, "view") != view:
        raise _bad(path, f"holds view '{_text(file, 'view')}', not '{view}'")
    with _damage(path):
        return _view(path, file, expect)


def _view(path: Path, file: h5py.File, expect: Mapping[str, Any] | None) -> View:
    _check_place(path, _text(file, "identity"), expect)
    fields = {name: data for name, data in file.items() if name != SUMS}
    shapes = {
        name: (data.shape[:1] + data.shape[2:] if name == "mc_logits" else data.shape[1:])
        for name, data in fields.items()
    }
    rows = {data.shape[1 if name == "mc_logits" else 0] for name, data in fields.items()}
    if len(rows) != 1:
        raise _bad(path, f"its fields have different numbers of rows {sorted(rows)}")
    sums = {name: file[f"{SUMS}/{name}"][:] for name in fields}
    return View(path, rows.pop(), shapes, _text(file, "identity"), _text(file, "digest"), file, sums)
