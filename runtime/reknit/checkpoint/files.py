"""Files that survive a power cut: written, flushed to the device, and entered in their folder."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_BUFFER = 1 << 20


class NewFile:
    """A file being written; on leaving the context it is durable, or gone after an exception.

    Counts the bytes and their CRC-32 on the way. With `exclusive`, FileExistsError if there is one.
    """

    def __init__(self, path: Path, *, exclusive: bool = False) -> None:
        self.path = path
        self.size = 0
        self.crc32 = 0
        self._mode = "xb" if exclusive else "wb"
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        self._file = self.path.open(self._mode, buffering=_BUFFER)
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`."""
        self._file.write(data)
        self.size += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        except BaseException:
            self._discard()
            raise
        if error is not None:
            self._discard()
        else:
            self._file.close()

    def _discard(self) -> None:
        remove_files([self.path])
        try:
            self._file.close()
        except OSError:
            # What is left in the buffer does not fit the device either, and is not wanted.
            return


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates `folder` durably unless it is there, with the folders above it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def remove_files(paths: Iterable[Path]) -> None:
    """Removes files, as far as they exist."""
    for path in paths:
        path.unlink(missing_ok=True)


def crc32_of(path: Path) -> int:
    """The CRC-32 of a file's bytes."""
    checksum = 0
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(_BUFFER))
        while count := file.readinto(buffer):
            checksum = zlib.crc32(buffer[:count], checksum)
    return checksum
