"""Where training starts: the newest checkpoint, the same one on every rank."""

import json
from pathlib import Path

from reknit.checkpoint.manifest import decode_manifest, encode
from reknit.checkpoint.reader import CheckpointInfo, search
from reknit.comm.group import RankGroup


def agree_on_checkpoint(
    folder: Path, group: RankGroup
) -> tuple[CheckpointInfo | None, tuple[str, ...]]:
    """The newest complete checkpoint in `folder`, as rank 0 finds it; None if there is none.

    Only rank 0 verifies checksums. The others take its manifest, so that all of them read the same
    checkpoint even if one is completed or removed meanwhile.

    Returns:
        The checkpoint, and on rank 0 what is wrong with newer ones that had been complete.
    """
    found: str | None = None
    damaged: tuple[str, ...] = ()
    if group.rank == 0:
        info, passed = search(folder)
        damaged = tuple(f"{e.path.name}: {e.reason}" for e in passed if e.was_committed)
        found = json.dumps(
            None if info is None else [info.path.name, encode(info.manifest).decode()]
        )
    entry = json.loads(group.share_text("resume", found))
    if entry is None:
        return None, damaged
    name, manifest_text = entry
    manifest = decode_manifest(manifest_text.encode())
    return CheckpointInfo(folder / name, manifest.version, manifest.generation, manifest), damaged
