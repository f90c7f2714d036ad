"""What is left on a device if the power fails at any moment: only what was flushed is certain."""

import os
import shutil
from pathlib import Path

import pytest

from reknit.checkpoint.reader import newest, open_checkpoint


class Device:
    """Follows a folder and knows what of it a power cut would leave.

    The content of a file is certain as of its last fsync. Names are certain as of the last fsync
    of their folder; a journal may have written them earlier (`eager`), content never.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[tuple[str, int], bytes] = {}
        self.names: dict[str, dict[str, int]] = {str(root): self.listing(root)}

    @staticmethod
    def listing(folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in folder.iterdir()}

    def flushed(self, path: Path) -> None:
        if path.is_dir():
            self.names[str(path)] = self.listing(path)
        else:
            self.content[str(path), path.stat().st_ino] = path.read_bytes()

    def restore(self, target: Path, *, eager: bool, folder: Path | None = None) -> None:
        """Writes to `target` what a power cut now would leave."""
        folder = folder or self.root
        target.mkdir()
        names = (
            self.listing(folder) if eager and folder.exists() else self.names.get(str(folder), {})
        )
        for name, inode in names.items():
            path = folder / name
            if path.is_dir() or str(path) in self.names:
                self.restore(target / name, eager=eager, folder=path)
            else:
                (target / name).write_bytes(self.content.get((str(path), inode), b""))


@pytest.mark.parametrize("eager", [False, True])
def test_a_power_cut_at_any_moment_leaves_the_newest_committed_checkpoint(
    world, tmp_path, monkeypatch, holds, eager
):
    device = Device(tmp_path)
    job = world(size=2, keep=1)
    survivor = tmp_path.parent / f"{tmp_path.name}-after"
    committed: list[int] = []
    found: list[int | None] = []

    def cut() -> None:
        device.restore(survivor, eager=eager)
        info = newest(survivor / "checkpoints")
        if info is not None:
            with open_checkpoint(info) as source:
                holds(source, info.version)
        found.append(info and info.version)
        assert (found[-1] or 0) >= (committed[-1] if committed else 0)
        shutil.rmtree(survivor)

    fsync, unlink = os.fsync, Path.unlink

    def watched_fsync(descriptor):
        cut()
        fsync(descriptor)
        device.flushed(Path(f"/proc/self/fd/{descriptor}").readlink())
        cut()

    def watched_unlink(path, **options):
        unlink(path, **options)
        if path.is_relative_to(tmp_path):
            cut()

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "unlink", watched_unlink)
    for version in (1, 2, 3):
        # One rank after the other: the pictures are taken in the writing threads.
        for rank, checkpointer in enumerate(job.ranks):
            assert checkpointer.begin(version, job.state(rank, version))
            job.wait()
        job.commit(version)
        assert job.errors() == [None, None]
        assert job.ranks[0].progress().committed
        committed.append(version)
        cut()
    assert {None, 1, 2, 3} == set(found)
    assert len(found) > 60
