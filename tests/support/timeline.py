"""How long a schedule takes: every rank's actions with given durations, as a pure function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reknit.pipeline.schedule import Action, Kind


@dataclass(frozen=True, slots=True)
class Span:
    """When an action is carried out."""

    action: Action
    start: float
    stop: float


def timeline(
    lists: Sequence[Sequence[Action]], seconds: Callable[[Action], float]
) -> list[list[Span]]:
    """For each rank its actions with their times, where communication takes none.

    Args:
        lists: the actions of each rank, in order.
        seconds: how long an action takes.

    Raises:
        ValueError: the lists wait for each other for ever.
    """
    num_stages = 1 + max(action.stage for actions in lists for action in actions)
    ends: dict[Action, float] = {}
    spans: list[list[Span]] = [[] for _ in lists]
    todo = sum(map(len, lists))
    while todo:
        before = todo
        for actions, done in zip(lists, spans, strict=True):
            while len(done) < len(actions):
                action = actions[len(done)]
                needed = dependency(action, num_stages)
                if needed is not None and needed not in ends:
                    break
                free = done[-1].stop if done else 0.0
                start = max(free, ends[needed] if needed is not None else 0.0)
                ends[action] = start + seconds(action)
                done.append(Span(action, start, ends[action]))
                todo -= 1
        if todo == before:
            raise ValueError("the actions wait for each other")
    return spans


def dependency(action: Action, num_stages: int) -> Action | None:
    """What must have been done, on whichever rank, before an action can be; None: nothing.

    A backward pass also needs the forward pass on its own stage, which is on the same rank.
    """
    if action.kind is Kind.FORWARD:
        if action.stage == 0:
            return None
        return Action(Kind.FORWARD, action.stage - 1, action.micro_batch)
    if action.stage == num_stages - 1:
        return Action(Kind.FORWARD, action.stage, action.micro_batch)
    return Action(Kind.BACKWARD, action.stage + 1, action.micro_batch)


def waiting_share(spans: Sequence[Sequence[Span]]) -> float:
    """The share of the whole in which the ranks wait, on average: the bubble."""
    start = min(span.start for rank in spans for span in rank)
    whole = max(span.stop for rank in spans for span in rank) - start
    busy = sum(span.stop - span.start for rank in spans for span in rank)
    return 1.0 - busy / (whole * len(spans))
