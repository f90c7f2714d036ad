import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.checkpoint.manifest import folder_name
from reknit.checkpoint.retention import Found, expired
from reknit.protocol.base import Generation


def found(version, counter, committed=True):
    generation = Generation(incarnation=1, counter=counter)
    return Found(folder_name(version, generation), version, generation, committed)


def gone(entries, *, committed=100, counter=5, keep=2, inherited=()):
    generation = Generation(incarnation=1, counter=counter)
    removed = expired(
        entries, committed=committed, generation=generation, keep=keep, inherited=inherited
    )
    return {(entry.version, entry.generation.counter) for entry in removed}


def test_the_newest_committed_ones_stay():
    assert gone([found(v, 5) for v in (100, 70, 90, 80)]) == {(70, 5), (80, 5)}
    assert gone([found(100, 5)]) == set()


def test_of_the_same_version_the_newer_generation_is_newer():
    assert gone([found(100, 5), found(90, 4), found(90, 3)]) == {(90, 3)}


@pytest.mark.parametrize(
    ("entry", "removed"),
    [
        (found(50, 4, committed=False), True),  # an older generation, which has ended
        (found(500, 4, committed=False), True),
        (found(50, 5, committed=False), True),  # this generation has moved on
        (found(110, 5, committed=False), False),  # this generation may be writing it
        (found(50, 6, committed=False), False),  # a newer generation may be writing it
        (found(500, 6, committed=False), False),
    ],
)
def test_abandoned_folders_go_if_nobody_can_be_writing_them(entry, removed):
    assert bool(gone([found(100, 5), entry])) == removed


def test_leftovers_of_an_earlier_job_go_whatever_their_generation():
    entry = found(50, 9, committed=False)
    assert gone([found(100, 5), entry], inherited=[entry.name]) == {(50, 9)}
    assert gone([found(100, 5), found(50, 9)], keep=2, inherited=[entry.name]) == set()


def test_committed_ones_above_are_neither_counted_nor_removed():
    """They were passed over when the job resumed; the one just written must not go for them."""
    entries = [found(300, 1), found(200, 1), found(100, 5), found(90, 4), found(80, 3)]
    assert gone(entries) == {(80, 3)}


@given(
    entries=st.lists(
        st.builds(found, st.integers(0, 8), st.integers(1, 5), st.booleans()),
        max_size=20,
        unique_by=lambda entry: entry.name,
    ),
    keep=st.integers(1, 4),
    committed=st.integers(0, 8),
)
def test_what_was_just_committed_always_stays(entries, keep, committed):
    counter = max((entry.generation.counter for entry in entries), default=0) + 1
    removed = gone(
        [*entries, found(committed, counter)], keep=keep, committed=committed, counter=counter
    )
    complete = [e for e in entries if e.committed and e.version <= committed]
    assert (committed, counter) not in removed
    assert sum((e.version, e.generation.counter) in removed for e in complete) == max(
        0, len(complete) + 1 - keep
    )


def test_old_checkpoints_are_removed_from_the_disk(world, tmp_path, newest_version):
    old = world(counter=1, keep=2)
    for version in (1, 2, 3):
        old.save(version)
    old.begin(4)
    new = world(counter=2, keep=2)
    foreign = tmp_path / "checkpoints" / "my-notes"
    foreign.mkdir()
    new.save(5)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["my-notes", "step-00000003.g1.1", "step-00000005.g1.2"]
    assert newest_version() == 5


def test_one_that_cannot_be_removed_does_not_spoil_the_commit(
    world, newest_version, monkeypatch, caplog
):
    job = world(keep=1)
    first = job.save(1)
    unlink = type(first).unlink

    def refuse(path, **options):
        if path.parent == first:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(first), "unlink", refuse)
        job.save(2)
    assert newest_version() == 2
    assert "left over" in caplog.text
    job.save(3)
    assert not first.exists()
