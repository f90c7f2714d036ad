"""Data sets for language models and small experiments."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from glob import glob
from itertools import accumulate
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from reknit.errors import ConfigurationError

PathArgument: TypeAlias = str | PathLike[str]

_MAX_OPEN_FILES = 64


class ByteFiles:
    """Windows of consecutive bytes from files, as if all files were one.

    Sample i is a uint8 tensor of `window` bytes from byte i * `stride` on; what is left at the end
    and does not fill a window is not used. Files are mapped into memory, at most 64 at a time, and
    must not change while they are used.

    Args:
        paths: files, folders (every file below) or patterns such as `data/**/*.py`; each
            pattern's and folder's files in the order of their names.
        window: bytes per sample.
        stride: bytes from one window's start to the next one's; by default `window`, so that they
            neither overlap nor leave anything out.

    Raises:
        ConfigurationError: a file cannot be read, a pattern matches none, or there is less than
            one window of data.
    """

    def __init__(
        self,
        paths: PathArgument | Sequence[PathArgument],
        window: int,
        *,
        stride: int | None = None,
    ) -> None:
        several = [paths] if isinstance(paths, str | PathLike) else list(paths)
        files = [file for path in several for file in _files(path)]
        self._tokens = _Tokens(files, np.dtype(np.uint8))
        self._windows = _Windows(len(self._tokens), window, stride, "bytes")

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int, /) -> torch.Tensor:
        return torch.from_numpy(self._tokens.read(self._windows[index]))


class TokenFile:
    """Windows of consecutive tokens from a file of plain binary integers, such as `tokens.bin`.

    Sample i is an int64 tensor of `window` tokens from token i * `stride` on. The file is mapped
    into memory.

    Args:
        path: the file.
        dtype: the numpy name of the integers in it, e.g. `uint16`.
        window: tokens per sample.
        stride: tokens from one window's start to the next one's; by default `window`.

    Raises:
        ConfigurationError: the file cannot be read, holds no whole number of tokens or less than
            one window, or `dtype` is no integer.
    """

    def __init__(
        self,
        path: PathArgument,
        dtype: npt.DTypeLike,
        window: int,
        *,
        stride: int | None = None,
    ) -> None:
        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise ConfigurationError(f"there is no number format {dtype!r}") from error
        if kind.kind not in "iu":
            raise ConfigurationError(f"tokens are integers, not {kind.name}")
        self._tokens = _Tokens([Path(path)], kind)
        self._windows = _Windows(len(self._tokens), window, stride, "tokens")

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int, /) -> torch.Tensor:
        return torch.from_numpy(self._tokens.read(self._windows[index]).astype(np.int64))


class Arrays:
    """Samples side by side in arrays: sample i is the tuple of each array's element i, as tensors.

    Args:
        arrays: torch tensors, numpy arrays (also memory-mapped ones) or sequences of numbers, all
            of the same length.

    Raises:
        ConfigurationError: there are no arrays, or their lengths differ.
    """

    def __init__(self, *arrays: torch.Tensor | npt.ArrayLike) -> None:
        self._arrays: list[Any] = [
            array if isinstance(array, torch.Tensor) else np.asanyarray(array) for array in arrays
        ]
        if not arrays or any(array.ndim == 0 for array in self._arrays):
            raise ConfigurationError("a data set of arrays needs arrays of at least one dimension")
        lengths = [len(array) for array in self._arrays]
        if len(set(lengths)) > 1:
            named = " and ".join(map(str, lengths))
            raise ConfigurationError(f"the arrays of a data set are not equally long: {named}")

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, ...]:
        return tuple(
            # The copy is of one element; numpy arrays may be read-only, which torch cannot be.
            array[index]
            if isinstance(array, torch.Tensor)
            else torch.as_tensor(np.array(array[index]))
            for array in self._arrays
        )


class _Tokens:
    """The items of several files, addressed as one row."""

    def __init__(self, files: Sequence[Path], dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        sizes = [_size(file, dtype.itemsize) for file in files]
        self._files = [file for file, size in zip(files, sizes, strict=True) if size]
        self._stops = list(accumulate(size for size in sizes if size))
        self._map = lru_cache(maxsize=_MAX_OPEN_FILES)(self._open)

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def read(self, place: range) -> npt.NDArray[Any]:
        """A new array of the items at `place`."""
        result = np.empty(len(place), dtype=self._dtype)
        filled = 0
        while filled < len(place):
            position = place.start + filled
            number = bisect_right(self._stops, position)
            start = position - (self._stops[number - 1] if number else 0)
            part = self._map(number)[start : start + len(place) - filled]
            result[filled : filled + len(part)] = part
            filled += len(part)
        return result

    def _open(self, number: int) -> npt.NDArray[Any]:
        return np.memmap(self._files[number], dtype=self._dtype, mode="r")


def _files(path: PathArgument) -> list[Path]:
    """The files that a path, folder or pattern stands for."""
    root = Path(path)
    if root.is_file():
        return [root]
    # Path.glob takes no absolute patterns.
    matches = glob(fspath(path), recursive=True)  # noqa: PTH207 - see above
    found = root.rglob("*") if root.is_dir() else map(Path, matches)
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise ConfigurationError(f"there are no files at {fspath(path)}")
    return files


def _size(file: Path, itemsize: int) -> int:
    """Items in a file, which must be readable."""
    try:
        with file.open("rb") as opened:
            num_bytes = opened.seek(0, 2)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if num_bytes % itemsize:
        raise ConfigurationError(
            f"{file} has {num_bytes} bytes, which is no whole number of {itemsize}-byte tokens"
        )
    return num_bytes // itemsize


class _Windows:
    """Equally long ranges at equal distances within `length` items."""

    def __init__(self, length: int, window: int, stride: int | None, unit: str) -> None:
        stride = window if stride is None else stride
        if window < 1 or stride < 1:
            raise ConfigurationError(f"window and stride must be at least 1 of the {unit}")
        if length < window:
            raise ConfigurationError(
                f"the data has {length} {unit}, less than one window of {window}"
            )
        self._window = window
        self._starts = range(0, length - window + 1, stride)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> range:
        start = self._starts[index]
        return range(start, start + self._window)
