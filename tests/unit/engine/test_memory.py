"""What ranks tell each other of what they hold, and what follows from it."""

from reknit.state.description import Interval
from reknit.state.transfer import Move
from reknit.trainer.memory import Collection, Share

SPECS = {
    "param/w": ((4,), "float32"),
    "worker/0/left_out/w": ((4,), "float32"),
    "worker/1/left_out/w": ((4,), "float32"),
}
WHOLE = ((0, 4),)


def survivor(**told: object) -> Share:
    held = {"own": {"param/w": WHOLE, "worker/0/left_out/w": WHOLE}}
    return Share(held=held, specs=SPECS, scalars={}, **told)


NEWCOMER = Share(needed={"param/w": WHOLE, "worker/1/left_out/w": WHOLE})


def test_what_one_rank_had_for_itself_is_lacking_without_a_copy():
    collection = Collection.of([survivor(), NEWCOMER])

    assert collection.lacking() == "elements 0 to 3 of worker/1/left_out/w"
    assert collection.lost == frozenset()


def test_what_can_be_begun_anew_is_not_lacking_and_not_sent():
    collection = Collection.of([survivor(replaceable="worker/"), NEWCOMER])

    assert collection.lacking() is None
    assert collection.lost == {"worker/1/left_out/w"}
    assert collection.moves(()) == (Move(0, "own", 1, "param/w", 0, 4),)


def test_a_newcomer_gets_what_only_it_had_from_the_copy():
    copy = {"copy-of-1": {"worker/1/left_out/w": WHOLE}}
    holder = survivor()
    holder = holder.model_copy(update={"held": holder.held | copy})
    newcomer = Share(needed={"param/w": WHOLE}, own="worker/1/")

    collection = Collection.of([holder, newcomer])

    assert collection.lacking() is None
    assert {(move.name, move.source_key) for move in collection.moves(())} == {
        ("param/w", "own"),
        ("worker/1/left_out/w", "copy-of-1"),
    }


def test_intervals_are_told_as_pairs():
    assert Collection.of([survivor()]).holdings[0].intervals["param/w"] == (Interval(0, 4),)
