"""One file with the whole model, as every tool reads it."""

from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

from reknit.checkpoint.files import NewFile, remove_files, sync_folder
from reknit.checkpoint.shards import Entry, write_tensors
from reknit.state.description import Interval, StateSource

_PREFIXES: Final = ("param/", "buffer/")
_CHUNK_ELEMENTS: Final = 1 << 20


def consolidate(
    source: StateSource,
    path: str | PathLike[str],
    *,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes the parameters and buffers of `source` as one safetensors file.

    The names are the module's own, so `module.load_state_dict(load_file(path))` takes the file. It
    appears whole or not at all, in place of one that was there. Memory stays at a few megabytes.

    Args:
        source: where the state is read from.
        path: the file; its folder exists.
        aliases: further names of tied tensors, each with the name that the state knows it by. A
            tied tensor is stored under all of its names.

    Raises:
        ValueError: an alias stands for a tensor that the state does not have.
        OSError: the file could not be written.
    """
    names = {
        name.removeprefix(prefix): name
        for name in source.specs
        for prefix in _PREFIXES
        if name.startswith(prefix)
    }
    unknown = sorted(set(aliases.values()) - names.keys())
    if unknown:
        raise ValueError(f"no tensor of the state is called {unknown[0]}")
    names |= {alias: names[first] for alias, first in aliases.items()}
    entries = [
        Entry(key, source.specs[name].shape, source.specs[name].dtype, partial(_read, source, name))
        for key, name in names.items()
    ]
    target = Path(path)
    partial_file = target.with_name(f"{target.name}.partial")
    with NewFile(partial_file) as file:
        write_tensors(file, entries)
    try:
        partial_file.replace(target)
    except OSError:
        remove_files([partial_file])
        raise
    sync_folder(target.parent)


def _read(source: StateSource, name: str) -> Iterator[torch.Tensor]:
    num_elements = source.specs[name].num_elements
    for start in range(0, num_elements, _CHUNK_ELEMENTS):
        yield source.read(name, Interval(start, min(start + _CHUNK_ELEMENTS, num_elements)))
