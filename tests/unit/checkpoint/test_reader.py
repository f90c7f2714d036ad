import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reknit.checkpoint.reader import (
    CheckpointInfo,
    examine,
    newest,
    open_checkpoint,
    search,
)
from reknit.errors import ConfigurationError
from reknit.protocol.base import Generation
from reknit.state.description import Interval, even_intervals


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


class TestNewest:
    def test_without_a_folder_or_checkpoint_there_is_none(self, folder):
        assert newest(folder) is None
        folder.mkdir()
        (folder / "step-99.g1.1").mkdir()
        (folder / "notes.txt").write_text("x")
        assert search(folder) == (None, [])

    def test_the_highest_version_counts_then_the_generation(self, world, folder):
        world(counter=9).save(10)
        world(counter=2).save(11)
        world(counter=10).save(10)
        info = newest(folder)
        assert (info.version, info.generation) == (11, Generation(incarnation=1, counter=2))
        shutil.rmtree(info.path)
        assert newest(folder).generation.counter == 10

    def test_a_path_that_is_no_folder_has_none(self, folder):
        folder.write_text("x")
        assert newest(folder) is None

    def test_a_folder_that_cannot_be_listed_is_the_users_to_mend(self, folder, monkeypatch):
        folder.mkdir()

        def refuse(_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(folder), "iterdir", refuse)  # root may list everything
        with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
            newest(folder)

    def test_a_folder_is_examined_by_its_path(self, world, folder):
        path = world().save(3)
        assert isinstance(examine(path), CheckpointInfo)
        assert examine(folder).reason == "it is not named like a checkpoint"


def remove_marker(path):
    (path / "COMMITTED").unlink()


def empty_marker(path):
    (path / "COMMITTED").write_bytes(b"")


def cut_marker(path):
    (path / "COMMITTED").write_bytes((path / "COMMITTED").read_bytes()[:-9])


def remove_manifest(path):
    (path / "manifest.json").unlink()


def edit_manifest(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"version": 2', '"version": 3', 1))


def cut_manifest(path):
    (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes()[:-1])


def remove_shard(path):
    (path / "shard-00001.safetensors").unlink()


def cut_shard(path):
    shard = path / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def flip_a_bit(path):
    shard = path / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 4
    shard.write_bytes(data)


def rename(path):
    path.rename(path.with_name("step-00000009.g1.1"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_marker, "it was not committed"),
        (empty_marker, "COMMITTED is incomplete"),
        (cut_marker, "COMMITTED is incomplete"),
        (remove_manifest, "manifest.json: No such file or directory"),
        (edit_manifest, "manifest.json is damaged: its size or checksum differs"),
        (cut_manifest, "manifest.json is damaged: its size or checksum differs"),
        (remove_shard, "shard-00001.safetensors: No such file or directory"),
        (cut_shard, "shard-00000.safetensors has 625 bytes instead of 626"),
        (flip_a_bit, "shard-00000.safetensors is damaged: its checksum differs"),
        (rename, "its manifest belongs to another checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_the_reason_told(
    world, folder, newest_version, damage, reason
):
    job = world()
    job.save(1)
    damage(job.save(2))
    assert newest_version() == 1
    (entry,) = search(folder)[1]
    assert entry.reason == reason
    assert entry.was_committed == (damage is not remove_marker)


def test_checksums_may_be_left_to_another_rank(world, folder):
    flip_a_bit(world().save(2))
    assert newest(folder, verify_contents=False).version == 2


@pytest.mark.parametrize("written_by", [1, 2, 3, 5])
@pytest.mark.parametrize("read_by", [1, 2, 4, 7])
def test_any_world_reads_what_any_other_wrote(world, folder, holds, written_by, read_by):
    job = world(size=written_by)
    job.save(6)
    with open_checkpoint(newest(folder)) as source:
        for name, spec in source.specs.items():
            parts = [source.read(name, i) for i in even_intervals(spec.num_elements, read_by)]
            assert torch.equal(torch.cat(parts), job.values(name, 6))
        holds(source, 6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ends=st.tuples(st.integers(0, 55), st.integers(0, 55)).map(sorted))
def test_any_interval_can_be_read(world, folder, ends):
    job = world(size=3)
    info = newest(folder)
    if info is None:
        job.save(1)
        info = newest(folder)
    with open_checkpoint(info) as source:
        read = source.read("param/embedding.weight", Interval(*ends))
    assert read.tolist() == list(range(1000 + ends[0], 1000 + ends[1]))


class TestSource:
    @pytest.fixture
    def source(self, world, folder):
        world().save(1)
        with open_checkpoint(newest(folder)) as source:
            yield source

    def test_what_is_read_is_the_readers_own(self, source):
        first = source.read("param/bias", Interval(0, 3))
        first.zero_()
        assert source.read("param/bias", Interval(0, 3)).tolist() == [1000.0, 1001.0, 1002.0]

    def test_unknown_tensors_are_a_key_error(self, source):
        with pytest.raises(KeyError, match="param/none"):
            source.read("param/none", Interval(0, 1))

    def test_intervals_beyond_the_end_are_refused(self, source):
        with pytest.raises(ValueError, match="has 3 elements"):
            source.read("param/bias", Interval(2, 4))

    def test_reading_goes_on_after_closing(self, source):
        source.read("param/bias", Interval(0, 3))
        source.close()
        assert source.read("param/bias", Interval(0, 1)).tolist() == [1000.0]


def test_numbers_that_json_lacks_survive(world, folder):
    world().save(1)
    assert newest(folder).manifest.scalars["worst"] == float("inf")
    text = (newest(folder).path / "manifest.json").read_text()
    assert json.loads(text)["scalars"]["lr"] == 0.1
