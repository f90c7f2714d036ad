import errno
import json
import os
import resource
import threading
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from reknit.checkpoint.files import NewFile
from reknit.checkpoint.reader import search
from reknit.checkpoint.writer import Checkpointer, WriteProgress
from reknit.errors import ConfigurationError
from reknit.protocol.base import Generation
from reknit.state.description import Interval, LocalState, Piece, TensorSpec


@contextmanager
def largest_file(num_bytes):
    """Files beyond `num_bytes` fail with EFBIG, as they fail with ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def slow_writes(monkeypatch):
    """Holds back every write within the context; calling what it yields waits for the first."""

    @contextmanager
    def hold():
        entered, gate = threading.Event(), threading.Event()
        write = NewFile.write

        def held(self, data):
            entered.set()
            assert gate.wait(20)
            write(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(NewFile, "write", held)
            yield lambda: entered.wait(20)
            gate.set()

    return hold


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_has_the_documented_files(world):
    job = world(size=2)
    folder = job.save(100)
    assert folder.name == "step-00000100.g1.1"
    assert contents(folder) == [
        "COMMITTED",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["version"], manifest["world_size"]) == (100, 2)
    assert manifest["generation"] == {"incarnation": 1, "counter": 1}
    assert manifest["tensors"]["buffer/mask"] == {"shape": [2, 2], "dtype": "bool"}


def test_shards_are_ordinary_safetensors_files(world):
    folder = world(size=2).save(3)
    tensors = load_file(folder / "shard-00001.safetensors")
    assert tensors["param/embedding.weight[28:55]"].tolist() == list(range(3028, 3055))
    assert tensors["optimizer/exp_avg/embedding.weight[28:55]"].dtype == torch.bfloat16


def test_progress_goes_from_begun_to_durable_to_committed(world):
    job = world(size=1)
    (rank,) = job.ranks
    assert rank.progress() is None
    job.begin(7)
    assert rank.progress() == WriteProgress(7, durable=True)
    job.commit(7)
    assert rank.progress() == WriteProgress(7, durable=True, committed=True)


def test_the_snapshot_is_of_the_moment_of_begin(world, newest_version, slow_writes):
    job = world(size=1)
    state = job.state(0, 5)
    with slow_writes() as writing:
        assert job.ranks[0].begin(5, state)
        assert writing()
        for piece in state.pieces:
            piece.data.zero_()
        state.scalars["lr"] = -1.0
    job.wait()
    job.commit(5)
    assert newest_version() == 5


def test_begin_never_waits_for_the_disk_and_refuses_a_second_write(world, slow_writes):
    job = world(size=1)
    (rank,) = job.ranks
    with slow_writes():
        assert rank.begin(1, job.state(0, 1))
        assert rank.progress() == WriteProgress(1)
        assert not rank.begin(2, job.state(0, 2))
        assert rank.progress() == WriteProgress(1)
    job.wait()
    assert rank.begin(2, job.state(0, 2))


def test_a_durable_version_is_not_written_again(world):
    job = world(size=2)
    folder = job.save(4)
    before = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    job.begin(4)
    job.commit(4)
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == before
    assert job.ranks[0].progress() == WriteProgress(4, durable=True, committed=True)


def test_committing_twice_is_committing_once(world, newest_version):
    job = world(size=1)
    job.begin(1)
    job.ranks[0].commit(1)
    job.ranks[0].commit(1)
    job.wait()
    assert job.ranks[0].progress() == WriteProgress(1, durable=True, committed=True)
    assert newest_version() == 1


def test_only_rank_0_commits_what_is_durable(world):
    job = world(size=2)
    with pytest.raises(ValueError, match="not durable"):
        job.ranks[0].commit(1)
    job.begin(1)
    with pytest.raises(ValueError, match="only rank 0"):
        job.ranks[1].commit(1)
    with pytest.raises(ValueError, match="version 2 is not durable"):
        job.ranks[0].commit(2)


def test_a_missing_shard_is_never_committed(world, newest_version):
    job = world(size=2)
    assert job.ranks[0].begin(1, job.state(0, 1))
    job.wait()
    job.commit(1)
    progress = job.ranks[0].progress()
    assert not progress.committed
    assert "rank 1 has no shard of version 1" in progress.error
    assert newest_version() is None


def test_a_gap_between_the_ranks_pieces_is_never_committed(world, newest_version):
    job = world(size=2)
    assert job.ranks[0].begin(1, job.state(0, 1))
    state = job.state(1, 1)
    state.written = [piece for piece in state.written if piece.name != "param/bias"]
    assert job.ranks[1].begin(1, state)
    job.wait()
    job.commit(1)
    assert "element 2 of param/bias is in no shard" in job.ranks[0].progress().error
    assert newest_version() is None


class TestAbandon:
    def test_it_removes_what_was_written(self, world, newest_version):
        job = world(size=2)
        job.save(1)
        job.begin(2)
        for rank in job.ranks:
            rank.abandon(2)
        job.wait()
        assert contents(job.ranks[0].location(2)) == []
        assert [rank.progress() for rank in job.ranks] == [None, None]
        assert newest_version() == 1

    def test_it_stops_a_write_in_the_middle(self, world, slow_writes):
        job = world(size=1)
        (rank,) = job.ranks
        with slow_writes() as writing:
            rank.begin(1, job.state(0, 1))
            assert writing()
            rank.abandon(1)
            assert rank.progress() is None
        job.wait()
        assert contents(rank.location(1)) == []

    def test_it_stops_a_write_before_it_begins(self, world, slow_writes, newest_version):
        job = world(size=1)
        (rank,) = job.ranks
        with slow_writes() as writing:
            rank.begin(1, job.state(0, 1))
            assert writing()
            rank.abandon(1)
            rank.begin(2, job.state(0, 2))
            rank.abandon(2)
            assert rank.begin(3, job.state(0, 3))
        job.wait()
        assert not rank.location(2).exists()
        job.commit(3)
        assert newest_version() == 3

    def test_the_same_version_can_be_written_afterwards(self, world, newest_version):
        job = world(size=2)
        job.begin(1)
        for rank in job.ranks:
            rank.abandon(1)
        job.save(1)
        assert newest_version() == 1

    def test_a_committed_checkpoint_stays(self, world, newest_version):
        job = world(size=2)
        job.save(1)
        for rank in job.ranks:
            rank.abandon(1)
        job.wait()
        assert newest_version() == 1

    def test_other_versions_stay(self, world, newest_version):
        job = world(size=1)
        job.begin(1)
        job.ranks[0].abandon(2)
        job.wait()
        job.commit(1)
        assert newest_version() == 1


class TestErrors:
    def test_a_full_disk_is_told_and_later_checkpoints_work(self, world, newest_version):
        job = world(size=2)
        job.save(1)
        with largest_file(200):
            job.begin(2)
        assert all(os.strerror(errno.EFBIG) in error for error in job.errors())
        assert [rank.progress().durable for rank in job.ranks] == [False, False]
        assert contents(job.ranks[0].location(2)) == []
        assert newest_version() == 1
        for rank in job.ranks:
            rank.abandon(2)
        job.save(3)
        assert newest_version() == 3

    def test_the_same_version_may_be_tried_again_without_abandoning(self, world, newest_version):
        job = world(size=1)
        with largest_file(10):
            job.begin(2)
        job.save(2)
        assert newest_version() == 2

    def test_a_disk_that_is_full_at_the_commit(self, world, newest_version):
        job = world(size=2)
        job.save(1)
        job.begin(2)
        job.ranks[0].location(2).joinpath("manifest.json").symlink_to("/dev/full")
        job.commit(2)
        progress = job.ranks[0].progress()
        assert os.strerror(errno.ENOSPC) in progress.error
        assert not progress.committed
        assert newest_version() == 1
        for rank in job.ranks:
            rank.abandon(2)
        job.save(3)
        assert newest_version() == 3

    @pytest.mark.parametrize("failing", range(1, 11))
    def test_an_input_output_error_anywhere_leaves_the_older_checkpoint(
        self, world, newest_version, monkeypatch, failing
    ):
        job = world(size=1)
        job.save(1)
        calls = []
        fsync = os.fsync

        def broken(descriptor):
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", broken)
        job.begin(2)
        if job.ranks[0].progress().durable:
            job.commit(2)
        monkeypatch.undo()
        progress = job.ranks[0].progress()
        assert progress.committed == (newest_version() == 2)
        assert progress.committed != (progress.error is not None)
        if progress.error is not None:
            assert progress.error == f"OSError: [Errno {errno.EIO}] {os.strerror(errno.EIO)}"
            assert len(calls) == failing
            job.ranks[0].abandon(2)
        job.save(3)
        assert newest_version() == 3

    def test_a_folder_that_cannot_be_created_is_told(self, tmp_path, world):
        (tmp_path / "checkpoints").write_text("a file where the folder should be")
        job = world(size=1)
        job.begin(1)
        assert job.errors() == [
            f"FileExistsError: [Errno 17] File exists: '{tmp_path / 'checkpoints'}'"
        ]

    def test_nothing_is_left_open(self, world):
        job = world(size=1)
        job.save(1)
        before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with largest_file(100):
            job.begin(2)
        assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


class TestArguments:
    @pytest.mark.parametrize(
        ("rank", "world_size", "keep", "sentence"),
        [(2, 2, 1, "no rank 2"), (-1, 2, 1, "no rank -1"), (0, 1, 0, "at least one")],
    )
    def test_impossible_ones_are_refused(self, tmp_path, rank, world_size, keep, sentence):
        with pytest.raises(ValueError, match=sentence):
            Checkpointer(
                tmp_path,
                rank=rank,
                world_size=world_size,
                generation=Generation(incarnation=1, counter=1),
                keep=keep,
            )

    def test_user_state_that_is_not_json_is_refused(self, world):
        job = world(size=1)
        state = job.state(0, 1)
        state.scalars["best"] = {1, 2}
        with pytest.raises(ConfigurationError, match=r"cannot be stored as JSON: .*set"):
            job.ranks[0].begin(1, state)
        assert job.ranks[0].progress() is None

    @pytest.mark.parametrize(
        ("interval", "data", "sentence"),
        [
            (Interval(0, 3), torch.zeros(2), "2 elements cannot be"),
            (Interval(2, 5), torch.zeros(3), "of 4"),
            (Interval(0, 2), torch.zeros(2, dtype=torch.float64), "float64, but described as"),
        ],
    )
    def test_pieces_that_do_not_fit_are_refused(self, world, interval, data, sentence):
        pieces = [Piece("a", interval, data)]
        state = LocalState({"a": TensorSpec((4,), torch.float32)}, pieces, pieces)
        with pytest.raises(ValueError, match=sentence):
            world(size=1).ranks[0].begin(1, state)


def test_an_earlier_job_with_the_same_generation_does_not_get_mixed_in(
    world, newest_version, tmp_path
):
    """The folder of a job that was deleted and created again: its generations start anew."""
    earlier = world(size=3)
    folder = earlier.save(5)
    shard = folder / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert newest_version() is None
    job = world(size=2)
    assert job.ranks[1].begin(5, job.state(1, 5))
    job.wait()
    assert newest_version() is None
    assert "bytes instead of" in search(tmp_path / "checkpoints")[1][0].reason
    assert job.ranks[0].begin(5, job.state(0, 5))
    job.wait()
    job.commit(5)
    assert newest_version() == 5
    assert contents(folder) == [
        "COMMITTED",
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]


def test_the_thread_ends_with_close(tmp_path):
    checkpointer = Checkpointer(
        tmp_path,
        rank=0,
        world_size=1,
        generation=Generation(incarnation=1, counter=1),
        keep=1,
    )
    state = LocalState({}, [], [])
    assert checkpointer.begin(1, state)
    checkpointer.close()
    assert checkpointer.progress() == WriteProgress(1, durable=True)
    assert not [t for t in threading.enumerate() if t.name == "reknit-checkpoint"]
    with pytest.raises(RuntimeError, match="closed"):
        checkpointer.begin(2, state)
