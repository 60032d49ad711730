"""Images from a NumPy archive with the arrays x_train, y_train, x_test and y_test.

x: uint8 in 0..255, [n, height, width] (grey), [n, height, width, 1] (grey) or [n, height, width, 3] (colour)
y: integers 0 to C-1, [n] or [n, 1]

Written by `np.savez_compressed("flowers.npz", x_train=..., y_train=..., x_test=..., y_test=...)`. The archive is read
in blocks, never as a whole, and nothing in it is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from allround.artifacts import Split
from allround.datasets import Source
from allround.errors import AllroundError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(data: Path, *, file: str, classes: list = ()) -> Source:
    """Open an archive.

    file: its name, in the data folder (or an absolute path)
    classes: the name of every label; without them "0", "1", ...
    """
    path = data / file
    with _reading(path), zipfile.ZipFile(path) as archive:
        found = sorted(name.removesuffix(".npy") for name in archive.namelist())
    if absent := [key for key in KEYS if key not in found]:
        raise AllroundError(
            f"{path}: has no array {', '.join(absent)}; it holds {', '.join(found) or 'nothing'}, and "
            f"{', '.join(KEYS)} are needed."
        )
    splits = []
    for name in ("train", "test"):
        images, labels = _images(path, f"x_{name}"), _labels(path, f"y_{name}")
        if len(labels) != images.shape[0]:
            raise AllroundError(
                f"{path}: x_{name} holds {images.shape[0]} images and y_{name} {len(labels)} labels; save one each."
            )
        splits.append(Split(images, labels, np.arange(len(labels))))
    count = int(splits[0].labels.max(initial=-1)) + 1
    return Source(list(classes) or [str(label) for label in range(count)], *splits, where=str(path))


def missing(data: Path, *, file: str, classes: list = ()) -> str | None:
    """Names the archive if it is not there."""
    path = data / file
    if path.is_file():
        return None
    return f"{path}: no such file; put an archive with {', '.join(KEYS)} there, or mend 'file' in the catalogue."


class Array:
    """An array inside an archive: `array[start:stop]` reads those rows alone. Rows are quickest in ascending order."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        with _reading(path):
            self.file = zipfile.ZipFile(path).open(f"{key}.npy")  # noqa: SIM115 (read from as long as the array lives)
            version = np.lib.format.read_magic(self.file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = header(self.file)
            self.start = self.file.tell()
        if self.dtype.hasobject:
            raise AllroundError(f"{path}: {key} holds Python objects; save a plain array of numbers.")
        if fortran and len(self.shape) > 1:
            raise AllroundError(f"{path}: {key} is stored in Fortran order; save np.ascontiguousarray({key}).")

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        wanted = (stop - start) * row
        with _reading(self.path):
            self.file.seek(self.start + start * row)
            block = self.file.read(wanted)  # zipfile compares the checksum when the last row has been read
        if len(block) < wanted:
            raise AllroundError(f"{self.path}: {self.key} ends early; the file is damaged: copy it or make it again.")
        return np.frombuffer(block, self.dtype).reshape(stop - start, *self.shape[1:])


class Images(Array):
    """Images inside an archive, (n, height, width, channels) also where grey ones are stored without channels."""

    def __init__(self, path: Path, key: str):
        super().__init__(path, key)
        self.stored = self.shape
        if len(self.shape) == 3:
            self.shape = (*self.shape, 1)


def _images(path: Path, key: str) -> Images:
    images = Images(path, key)
    if images.dtype != np.uint8:
        raise AllroundError(
            f"{path}: {key} is {images.dtype}, not uint8 in 0..255; save ({key} * 255).round().astype('uint8') if it "
            f"lies in 0..1, {key}.astype('uint8') if in 0..255."
        )
    if len(images.shape) != 4 or images.shape[3] not in (1, 3):
        first = len(images.shape) == 4 and images.shape[1] in (1, 3)
        raise AllroundError(
            f"{path}: {key} has shape {images.stored}; allowed: [n, height, width], [n, height, width, 1] or "
            f"[n, height, width, 3]{f'; save {key}.transpose(0, 2, 3, 1)' if first else ''}."
        )
    return images


def _labels(path: Path, key: str) -> np.ndarray:
    labels = Array(path, key)
    if labels.dtype.kind not in "iu":
        raise AllroundError(
            f"{path}: {key} is {labels.dtype}; labels are integers, 0 to C-1: save {key}.astype('int64')."
        )
    if len(labels.shape) == 2 and labels.shape[1] == 1:
        return labels[:][:, 0].astype(np.int64)
    if len(labels.shape) != 1:
        raise AllroundError(
            f"{path}: {key} has shape {labels.shape}; allowed: [n], one integer an image (from one-hot rows: "
            f"{key}.argmax(1))."
        )
    return labels[:].astype(np.int64)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of a damaged archive that it is damaged."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise AllroundError(f"{path}: not a whole .npz file ({error}); copy it or make it again.") from None
