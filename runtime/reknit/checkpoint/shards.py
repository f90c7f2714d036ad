"""Writing safetensors files as a stream: any size, one pass, no second copy in memory.

The format: the header's length in eight bytes, the header in JSON, then the tensors' bytes without
gaps. The safetensors library reads these files; it is not used to write them, as it needs all
tensors at once and computes no checksum.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import torch

from reknit.checkpoint.files import NewFile

DTYPE_CODES: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Callable[[], Iterable[torch.Tensor]]
    """The tensor's elements as consecutive flat CPU tensors."""

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape) * self.dtype.itemsize


def write_tensors(
    file: NewFile, entries: Sequence[Entry], *, between: Callable[[], None] = lambda: None
) -> None:
    """Writes a safetensors file; calls `between` every few megabytes.

    Raises:
        ValueError: the format has no code for a tensor's dtype, or its parts do not add up.
    """
    # Larger items first keeps each tensor aligned to its item size, for readers that map the file.
    entries = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.key))
    file.write(_header(entries))
    for entry in entries:
        written = 0
        for part in entry.parts():
            data = part.contiguous().view(torch.uint8).numpy().data
            for start in range(0, len(data), _CHUNK):
                between()
                file.write(data[start : start + _CHUNK])
            written += len(data)
        if written != entry.num_bytes:
            raise ValueError(f"{entry.key} has {written} bytes instead of {entry.num_bytes}")


def _header(entries: Sequence[Entry]) -> bytes:
    # Readers of model files look here for the framework whose layout the tensors have.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        if entry.dtype not in DTYPE_CODES:
            raise ValueError(f"{entry.key}: {entry.dtype} cannot be stored in a safetensors file")
        header[entry.key] = {
            "dtype": DTYPE_CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.num_bytes],
        }
        position += entry.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
