"""Sums that tell a damaged row from a whole one, for arrays that are too large to be read whole before their use.

A row's sum is that of its bytes, taken as little-endian words, modulo 2^64. A flipped bit always changes it, and nearly
every other damage does; it costs a fifth of the reading, and a row that is read alone is checked alone.
HDF5's own fletcher32 doubles the time of a block, and takes a whole chunk, a megabyte, for every single row.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allround.errors import AllroundError


def row_sums(rows: np.ndarray, draws: bool = False) -> np.ndarray:
    """The sums of rows (b, ...), or of draws of rows (t, b, ...), as (b,) uint64."""
    if draws:
        t, b = rows.shape[:2]
        return row_sums(rows.reshape(t * b, *rows.shape[2:])).reshape(t, b).sum(axis=0, dtype=np.uint64)
    size = rows.itemsize * int(np.prod(rows.shape[1:]))
    flat = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), size)
    word = next(width for width in (8, 4, 2, 1) if size % width == 0)
    return flat.view(f"<u{word}").sum(axis=1, dtype=np.uint64)


@dataclass(frozen=True)
class CheckedRows:
    """Rows that lie in a file, mapped into memory; those that are read are compared with their sums.

    rows: (n, ...); sums: (n,) uint64; where: named in the error
    """

    where: str
    rows: np.ndarray
    sums: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        first = index[0] if isinstance(index, tuple) else index
        rows, sums = self.rows[first], np.atleast_1d(self.sums[first])
        if (row_sums(rows.reshape(len(sums), *self.shape[1:])) != sums).any():
            raise AllroundError(f"{self.where}: damaged: it changed on disk after it was written; {REMEDY}.")
        return self.rows[index] if isinstance(index, tuple) else rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


REMEDY = "delete it and run the same command again"


def damaged_archive(path: Path) -> bool:
    """Whether a zip archive is not as it was written: torch.load, unlike Python's zipfile, reads over checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError):
        return True
