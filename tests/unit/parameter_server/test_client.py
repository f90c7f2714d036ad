"""The client of a worker whose servers cannot be reached."""

from collections.abc import Iterator

import pytest

from reknit.parameter_server.client import (
    Answer,
    Client,
    ClosedError,
    WorkersChangedError,
    first_clock,
)
from reknit.parameter_server.messages import Joined
from reknit.parameter_server.views import Member, View

MEMBERS = (Member(0, 1), Member(1, 1))


def view(roster: int, members: tuple[Member, ...] = MEMBERS) -> View:
    return View(1, roster, "a", None, members)


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(
        2,
        worker=0,
        incarnation=1,
        token="a-token",
        is_synchronous=True,
        max_frame_bytes=1 << 16,
    )
    for number in range(2):
        made.see(number, view(1), {})
    yield made
    made.close()


def test_a_step_is_void_on_all_ranges_as_soon_as_one_knows_other_workers(client):
    pulling = client.pull(0, [{}, {}])
    client.see(0, view(2, MEMBERS[:1]), {})
    pushing = client.push(0, [{}, {}])
    for pending in (pulling, pushing):
        with pytest.raises(WorkersChangedError):
            pending.result(20)


def test_after_another_join_requests_are_under_way_again(client):
    client.see(0, view(2, MEMBERS[:1]), {})
    client.join()
    with pytest.raises(TimeoutError):
        client.push(0, [{}, {}]).result(0.1)


def test_what_has_no_answer_at_the_end_fails(client):
    pending = client.pull(0, [{}, {}])
    client.close()
    for each in (pending, client.join()):
        with pytest.raises(ClosedError):
            each.result(20)


def test_a_place_goes_on_where_the_first_range_lacks_it():
    assert first_clock([Answer(Joined(1, 7, 2)), Answer(Joined(2, 6, 2))]) == 6


def test_ranges_that_answer_for_different_workers_have_to_be_asked_again():
    with pytest.raises(WorkersChangedError):
        first_clock([Answer(Joined(1, 7, 2)), Answer(Joined(2, 7, 3))])
