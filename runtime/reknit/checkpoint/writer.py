"""Writing checkpoints in the background, one rank's shard each, committed together."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from os import PathLike
from pathlib import Path

from reknit.checkpoint.background import BackgroundThread
from reknit.checkpoint.commit import commit_checkpoint
from reknit.checkpoint.files import NewFile, make_folder, remove_files, sync_folder
from reknit.checkpoint.manifest import (
    MANIFEST_NAME,
    MARKER_NAME,
    ShardEntry,
    encode,
    folder_name,
    shard_entry_name,
    shard_name,
)
from reknit.checkpoint.retention import apply_retention, checkpoint_folders
from reknit.checkpoint.snapshot import AbandonedError, Snapshot, take_snapshot, write_shard
from reknit.protocol.base import Generation
from reknit.state.description import LocalState

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """How far this rank is with one checkpoint."""

    version: int
    durable: bool = False
    """This rank's shard survives a power cut."""
    error: str | None = None
    """Why it could not be written; nothing of this rank's part of it is left."""
    committed: bool = False
    """On rank 0: the whole checkpoint is durable and marked."""


class Checkpointer:
    """One rank's side of writing checkpoints, in one generation.

    The protocol, with agreement among ranks left to the caller: every rank calls `begin`; once
    `progress` is durable on every rank, rank 0 calls `commit`; if there is an error on any rank,
    every rank calls `abandon`. Nothing but `begin`, which copies the rank's share of the state,
    takes noticeable time: all files are written by a thread. Its errors are told by `progress` and
    never raised.

    Args:
        folder: where the checkpoints of the job lie, the same place for all ranks.
        rank: this rank.
        world_size: number of ranks that write a shard.
        generation: in the name of every folder written.
        keep: complete checkpoints that rank 0 leaves when it commits another, at least 1.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        rank: int,
        world_size: int,
        generation: Generation,
        keep: int,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"there is no rank {rank} in a world of {world_size}")
        if keep < 1:
            raise ValueError("at least one checkpoint must be kept")
        self.folder = Path(folder)
        self.rank = rank
        self.world_size = world_size
        self.generation = generation
        self.keep = keep
        # Whatever lies here now was left by an earlier generation, or by an earlier job.
        self._inherited = frozenset(path.name for path in checkpoint_folders(self.folder))
        self._lock = threading.Lock()
        self._progress: WriteProgress | None = None
        self._snapshot: Snapshot | None = None
        self._thread = BackgroundThread("reknit-checkpoint")

    def location(self, version: int) -> Path:
        """The folder of the checkpoint of `version`."""
        return self.folder / folder_name(version, self.generation)

    def begin(self, version: int, state: LocalState) -> bool:
        """Copies this rank's share of the state and starts writing it.

        Returns False, and does nothing, while an earlier write is neither durable nor failed.
        A version that is already durable is not written again.

        Raises:
            ConfigurationError: a value in `state.scalars` is not JSON.
            ValueError: a piece does not fit its tensor.
        """
        with self._lock:
            current = self._progress
        if current is not None and current.error is None:
            if not current.durable:
                return False
            if current.version == version:
                return True
        snapshot = take_snapshot(version, state)
        with self._lock:
            self._snapshot = snapshot
            self._progress = WriteProgress(version)
        self._run(snapshot, lambda: self._write(snapshot))
        return True

    def progress(self) -> WriteProgress | None:
        """The newest checkpoint begun here; None before the first and after `abandon`."""
        with self._lock:
            return self._progress

    def commit(self, version: int) -> None:
        """On rank 0, once all ranks are durable: completes the checkpoint, removes old ones.

        Returns at once; `progress` tells when it is committed, or why that failed.

        Raises:
            ValueError: this is not rank 0, or its own shard of `version` is not durable.
        """
        with self._lock:
            current, snapshot = self._progress, self._snapshot
        if self.rank != 0:
            raise ValueError("only rank 0 commits a checkpoint")
        if current is None or current.version != version or not current.durable or not snapshot:
            raise ValueError(f"the shard of version {version} is not durable")
        if not snapshot.commit_asked:
            snapshot.commit_asked = True
            self._run(snapshot, lambda: self._commit(snapshot))

    def abandon(self, version: int) -> None:
        """Stops writing `version` and removes what this rank has written of it.

        Not for a committed checkpoint: that one stays, and this does nothing.
        """
        with self._lock:
            current, snapshot = self._progress, self._snapshot
            if current is None or current.version != version or not snapshot or current.committed:
                return
            snapshot.abandoned.set()
            self._progress = self._snapshot = None
        self._thread.submit(lambda: self._quietly(lambda: self._remove_own(version)))

    def wait(self, timeout: timedelta) -> bool:
        """Waits until nothing is being written or removed; False if `timeout` passed first."""
        return self._thread.wait(timeout)

    def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Ends the thread after what it is doing; to be called once, last."""
        self._thread.close(timeout)

    def _run(self, snapshot: Snapshot, task: Callable[[], None]) -> None:
        def run() -> None:
            try:
                task()
            except AbandonedError:
                return
            except Exception as error:  # every cause must reach the ranks, or they wait for ever
                self._update(snapshot, error=f"{type(error).__name__}: {error}")

        self._thread.submit(run)

    def _update(self, snapshot: Snapshot, **changes: object) -> None:
        with self._lock:
            if self._snapshot is snapshot and self._progress is not None:
                self._progress = replace(self._progress, **changes)  # type: ignore[arg-type]

    def _write(self, snapshot: Snapshot) -> None:
        folder = self.location(snapshot.version)
        own = self._own_files(snapshot.version)
        snapshot.check()
        make_folder(folder)
        # An earlier job in the same folder may have had a generation of the same number. While
        # its files are replaced one by one, its checksums keep readers from taking the mixture.
        remove_files(own)
        try:
            with NewFile(folder / shard_name(self.rank)) as shard:
                pieces = write_shard(shard, snapshot)
            entry = ShardEntry(
                version=snapshot.version,
                file=shard.path.name,
                size=shard.size,
                crc32=shard.crc32,
                pieces=pieces,
            )
            with NewFile(folder / shard_entry_name(self.rank)) as file:
                file.write(encode(entry))
            sync_folder(folder)
        except BaseException:
            remove_files(own)
            raise
        finally:
            snapshot.pieces = ()
        self._update(snapshot, durable=True)

    def _commit(self, snapshot: Snapshot) -> None:
        snapshot.check()
        commit_checkpoint(
            self.location(snapshot.version),
            version=snapshot.version,
            generation=self.generation,
            world_size=self.world_size,
            tensors=snapshot.tensors,
            scalars=json.loads(snapshot.scalars),
        )
        self._update(snapshot, committed=True)
        # The checkpoint counts, whatever becomes of the older ones: the next commit tries again.
        self._quietly(
            lambda: apply_retention(
                self.folder,
                committed=snapshot.version,
                generation=self.generation,
                keep=self.keep,
                inherited=self._inherited,
            )
        )

    def _remove_own(self, version: int) -> None:
        # Rank 0 alone knows for certain whether a marker is there to stay.
        if self.rank == 0 or not (self.location(version) / MARKER_NAME).exists():
            remove_files(self._own_files(version))

    def _own_files(self, version: int) -> list[Path]:
        names = [shard_entry_name(self.rank), shard_name(self.rank)]
        if self.rank == 0:
            names = [MARKER_NAME, MANIFEST_NAME, *names]
        return [self.location(version) / name for name in names]

    @staticmethod
    def _quietly(task: Callable[[], None]) -> None:
        try:
            task()
        except OSError as error:
            _logger.warning("files of old checkpoints are left over: %s", error)
