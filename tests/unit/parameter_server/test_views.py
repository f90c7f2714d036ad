import pytest

from reknit.parameter_server.views import Member, View, is_lost, succeed

PAIR = View(3, 5, "a", "b", (Member(0, 1),))


@pytest.mark.parametrize(
    ("alive", "complete", "spares", "expected"),
    [
        ("abc", "ab", "c", None),
        ("ac", "ab", "c", ("a", "c")),
        ("a", "ab", "", ("a", None)),
        ("bc", "ab", "c", ("b", "c")),
        ("b", "ab", "", ("b", None)),
        ("bc", "a", "c", None),
        ("c", "abc", "c", None),
    ],
)
def test_who_follows(alive, complete, spares, expected):
    following = succeed(PAIR, alive=set(alive), complete=set(complete), spares=list(spares))
    if expected is None:
        assert following is None
    else:
        assert following == View(4, 5, *expected, PAIR.members)


def test_a_primary_alone_gets_a_backup_as_soon_as_there_is_one():
    alone = View(3, 5, "a", None, ())
    assert succeed(alone, alive={"a"}, complete={"a"}, spares=[]) is None
    assert succeed(alone, alive={"a", "d"}, complete={"a"}, spares=["d"]) == View(
        4, 5, "a", "d", ()
    )


@pytest.mark.parametrize(
    ("alive", "complete", "lost"),
    [("ab", "", False), ("a", "", False), ("b", "b", False), ("b", "a", True), ("c", "abc", True)],
)
def test_a_range_is_lost_with_its_last_complete_copy(alive, complete, lost):
    assert is_lost(PAIR, alive=set(alive), complete=set(complete)) is lost
