from reknit.agent.outbox import Outbox, is_patient
from reknit.protocol.agents import Exited, FromAgent, FromSlot, Heartbeat, Leaving, Register
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import ErrorReport, ExitClass, ProcessExit
from reknit.protocol.ranks import Checkpointed, Failed, Finished, StepDone

STORE = Endpoint(host="h", port=1)
FIRST = Generation(incarnation=1, counter=1)
EXITED = Exited(
    generation=FIRST, slot=0, rank=0, exit=ProcessExit(exit_class=ExitClass.KILLED, signal=9)
)
REGISTER = Register(
    agent="a", replica=0, node="n", host="h", num_slots=1, promised=0, store=STORE, slots=()
)


def step(number: int, rank: int = 0) -> FromSlot:
    return FromSlot(rank=rank, message=StepDone(generation=FIRST, step=number))


def beat(port: int) -> Heartbeat:
    return Heartbeat(slots=(), store=Endpoint(host="h", port=port))


def contents(outbox: Outbox) -> list[FromAgent]:
    messages = []
    while (message := outbox.take(0.0)) is not None:
        messages.append(message)
    return messages


def test_messages_keep_their_order() -> None:
    outbox = Outbox()
    messages = [step(1), EXITED, step(2), Leaving(grace_seconds=30)]
    for message in messages:
        outbox.add(message, 0.0)
    assert len(outbox) == 4
    assert contents(outbox) == messages
    assert len(outbox) == 0


def test_only_the_latest_heartbeat_waits() -> None:
    outbox = Outbox()
    for message in [beat(1), EXITED, beat(2), beat(3)]:
        outbox.add(message, 0.0)
    assert contents(outbox) == [EXITED, beat(3)]


def test_the_oldest_progress_is_left_out_and_ends_never_are() -> None:
    failed = FromSlot(
        rank=0,
        message=Failed(generation=FIRST, error=ErrorReport(exception="x", traceback="x")),
    )
    finished = FromSlot(rank=1, message=Finished(generation=FIRST, step=3))
    outbox = Outbox(max_progress=2)
    for message in [EXITED, step(1), failed, step(2), finished, step(3), step(4)]:
        outbox.add(message, 0.0)
    assert contents(outbox) == [EXITED, failed, finished, step(3), step(4)]


def test_the_memory_of_a_long_outage_is_bounded() -> None:
    outbox = Outbox(max_progress=50)
    for number in range(2000):
        outbox.add(step(number), 0.0)
        outbox.add(beat(number), 0.0)
    assert len(outbox) == 51


def test_a_connection_begins_with_register_and_what_that_does_not_tell_anew() -> None:
    outbox = Outbox()
    written = FromSlot(rank=0, message=Checkpointed(step=4, location="step-4"))
    for message in [step(1), EXITED, beat(1), written, step(2), REGISTER, EXITED, step(3)]:
        outbox.add(message, 0.0)
    assert contents(outbox) == [REGISTER, written, EXITED, step(3)]


def test_an_unsent_message_is_sent_first() -> None:
    outbox = Outbox()
    for number in (1, 2):
        outbox.add(step(number), 0.0)
    first = outbox.take(0.0)
    assert first == step(1)
    outbox.put_back(first, 0.0)
    assert contents(outbox) == [step(1), step(2)]


def test_a_step_says_how_long_it_has_waited() -> None:
    outbox = Outbox()
    outbox.add(step(1), 10.0)
    outbox.add(EXITED, 10.25)
    first = outbox.take(10.5)
    assert first == step(1).model_copy(update={"waited": 0.5})
    # A connection broke; the time until the next one counts too.
    outbox.put_back(first, 10.5)
    assert outbox.take(12.0) == step(1).model_copy(update={"waited": 2.0})
    assert outbox.take(12.0) == EXITED


def test_only_steps_wait_for_the_next_message() -> None:
    finished = FromSlot(rank=1, message=Finished(generation=FIRST, step=3))
    assert is_patient(step(1))
    assert not any(is_patient(message) for message in [EXITED, finished, beat(1), REGISTER])
