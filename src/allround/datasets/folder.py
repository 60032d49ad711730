"""A folder of images, one folder a class: <folder>/train/<class>/* and <folder>/test/<class>/*, or <folder>/<class>/*.

Without train/ and test/, a fixed part of every class becomes the test set (`test_fraction`, `split_seed`); which
images those are follows from their names. Classes and images are in the order of their names, hidden files are left
out, and `origin` is the index among all images in that order. Images are decoded block by block while the dataset
is written: they never have to fit in memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allround.artifacts import Split
from allround.datasets import Source, stratified
from allround.errors import AllroundError, unknown

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {"colour": "RGB", "grey": "L"}
CLUTTER = ("thumbs.db", "desktop.ini")  # what Windows leaves behind, hidden from its users
DEEP = ("I", "F")  # 16 and 32 bits a pixel, which Pillow would clip to 8 without a word
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def load(
    data: Path, *, folder: str, size: int = 0, mode: str = "colour", test_fraction: float = 0.2, split_seed: int = 0
) -> Source:
    """Open a folder of images.

    folder: its name, in the data folder (or an absolute path)
    size: resize the shorter side to this many pixels and crop the centre, size x size; 0: take the images as they are
    mode: colour (3 channels) or grey (1)
    test_fraction, split_seed: the part of every class that becomes the test set where there is no test/
    """
    _check_options(size, mode, test_fraction)
    root = data / folder
    if (root / "train").is_dir():
        classes = _classes(root / "train")
        if strange := sorted(set(_classes(root / "test")) - set(classes)):
            raise AllroundError(f"{root / 'test' / strange[0]}: this class has no folder in {root / 'train'}; add one.")
        files, labels = zip(*(_listing(root / name, classes) for name in ("train", "test")), strict=True)
        origin = [np.arange(len(part)) for part in labels]
        everything = [*files[0], *files[1]]
    else:
        classes = _classes(root)
        everything, all_labels = _listing(root, classes)
        keys = [file.relative_to(root).as_posix() for file in everything]
        test = stratified(all_labels, keys, test_fraction, split_seed)
        origin = [np.flatnonzero(~test), np.flatnonzero(test)]
        files, labels = [[everything[i] for i in part] for part in origin], [all_labels[part] for part in origin]
    if not everything:
        raise AllroundError(f"{root}: holds no images; put the images of each class into its folder.")
    height, width = (size, size) if size else _common_size(everything)
    images = (Images(part, height, width, size, mode) for part in files)
    names = (np.array([os.fsencode(file)[len(os.fsencode(root)) + 1 :] for file in part]) for part in files)
    splits = (Split(*split) for split in zip(images, labels, origin, names, strict=True))
    return Source(classes, *splits, where=str(root))


def missing(
    data: Path, *, folder: str, size: int = 0, mode: str = "colour", test_fraction: float = 0.2, split_seed: int = 0
) -> str | None:
    """Names the folder if it, or its half, is not there."""
    _check_options(size, mode, test_fraction)
    root = data / folder
    if not root.is_dir():
        return f"{root}: no such folder; put one folder of images a class there, or mend 'folder' in the catalogue."
    if (root / "train").is_dir() != (root / "test").is_dir():
        there, absent = ("train", "test") if (root / "train").is_dir() else ("test", "train")
        return f"{root}: has {there}/ but no {absent}/; add {absent}/<class>/, or put <class>/ right into {root}."
    return None


class Images:
    """Images on disk, (n, height, width, channels): `images[start:stop]` decodes those files alone."""

    def __init__(self, files: list[Path], height: int, width: int, size: int, mode: str):
        self.files, self.size, self.mode = files, size, mode
        self.shape = (len(files), height, width, 3 if mode == "colour" else 1)

    def __getitem__(self, rows: slice) -> np.ndarray:
        files = self.files[rows]
        block = np.empty((len(files), *self.shape[1:]), dtype=np.uint8)
        for row, file in zip(block, files, strict=True):
            row[:] = decode(file, self.size, self.mode).reshape(row.shape)
        return block


def decode(file: Path, size: int, mode: str) -> np.ndarray:
    """One image, upright as its camera meant it: (height, width) or (height, width, 3) uint8."""
    from PIL import Image, ImageOps

    with _opened(file) as image:
        image = ImageOps.exif_transpose(image).convert(MODES[mode])
        if size:
            scale = size / min(image.size)
            width, height = (max(size, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            left, top = (width - size) // 2, (height - size) // 2
            image = image.crop((left, top, left + size, top + size))
        return np.asarray(image)


def _common_size(files: list[Path]) -> tuple[int, int]:
    """Height and width that all images share, from their headers."""
    first = None
    for file in files:
        with _opened(file) as image:
            width, height = image.size[::-1] if image.getexif().get(0x0112) in TURNED else image.size
        if first is None:
            first = (height, width)
        elif first != (height, width):
            raise AllroundError(
                f"{file} is {width} x {height} pixels and {files[0]} {first[1]} x {first[0]}; set the option 'size' "
                f"in the catalogue, e.g. size: {min(height, width, *first)}, to resize and crop all to one size."
            )
    return first


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """An image, and one line with its name if anything that is done with it fails."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            deep = image.mode.split(";")[0] in DEEP
            if not deep:
                yield image
    except PermissionError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None):  # the disk's fault, not the image's
            raise
        reason = "not an image that Pillow knows" if isinstance(error, Image.UnidentifiedImageError) else error
        raise AllroundError(f"{file}: damaged image ({reason}); replace it or move it out of the folder.") from None
    if deep:
        raise AllroundError(f"{file}: has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits.")


def _classes(root: Path) -> list[str]:
    """The class folders of a split, in order."""
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    if loose := [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]:
        raise AllroundError(f"{loose[0]}: lies beside the class folders; move it into the folder of its class.")
    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes:
        raise AllroundError(f"{root}: has no class folders; put the images of each class into a folder of its own.")
    return classes


def _listing(root: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """The images of a split in order, and their labels (n,). A test set may lack a class."""
    files, labels = [], []
    for label, name in enumerate(classes):
        entries = sorted((root / name).iterdir()) if (root / name).is_dir() else []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in CLUTTER:
                continue
            if entry.suffix.lower() not in SUFFIXES or not entry.is_file():
                what = "a folder, where only images lie" if entry.is_dir() else f"not an image ({' '.join(SUFFIXES)})"
                raise AllroundError(f"{entry}: is {what}; move it out of the class folder.")
            files.append(entry)
            labels.append(label)
    return files, np.array(labels, dtype=np.int64)


def _check_options(size: int, mode: str, test_fraction: float) -> None:
    if mode not in MODES:
        raise unknown("mode of the source 'folder'", mode, MODES)
    if size < 0:
        raise AllroundError(f"option 'size' of the source 'folder' is {size}; allowed: pixels, or 0 for no resizing.")
    if not 0 < test_fraction < 1:
        raise AllroundError(
            f"option 'test_fraction' of the source 'folder' is {test_fraction}; allowed: between 0 and 1."
        )
