"""What is done to a job, and when: pure functions of the seed and of what is observed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Action(StrEnum):
    """What can be done to a job."""

    KILL_RANK = "kill-rank"
    STOP_RANK = "stop-rank"
    SLOW_RANK = "slow-rank"
    KILL_POD = "kill-pod"
    CUT_OFF_POD = "cut-off-pod"
    """Its agent is heard by nobody for a while; the pod's ranks live on."""
    KILL_COORDINATOR = "kill-coordinator"
    KILL_OPERATOR = "kill-operator"


_OF_RANKS = frozenset({Action.KILL_RANK, Action.STOP_RANK, Action.SLOW_RANK})
_OF_PODS = frozenset({Action.KILL_POD, Action.CUT_OFF_POD})


@dataclass(frozen=True, slots=True)
class RankProcess:
    """A rank, and where it runs."""

    rank: int
    pod: str
    pid: int


@dataclass(frozen=True, slots=True)
class Observed:
    """The processes of a job whose ranks are training."""

    ranks: tuple[RankProcess, ...] = ()
    agents: Mapping[str, int] | None = None
    """The first process of each pod that has ranks, by the pod's name."""
    coordinator: int | None = None
    operator: int | None = None


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that is done to a job."""

    action: Action
    pid: int
    pod: str | None = None
    rank: int | None = None

    def __str__(self) -> str:
        whom = {
            **dict.fromkeys(_OF_PODS, f"{self.pod}, "),
            Action.KILL_COORDINATOR: "",
            Action.KILL_OPERATOR: "",
        }.get(self.action, f"rank {self.rank} in {self.pod}, ")
        return f"{self.action}: {whom}pid {self.pid}"


def pause(seed: int, number: int, every: timedelta) -> timedelta:
    """The time between deed `number` - 1, or the beginning, and deed `number`, counted from 0.

    Deeds are as likely at one moment as at any other: the pauses are distributed exponentially.
    """
    return random.Random(f"pause {seed} {number}").expovariate(1.0) * every  # noqa: S311


def choose(seed: int, number: int, actions: Sequence[Action], observed: Observed) -> Deed | None:
    """Deed `number`; None if none of the actions has anything to act on at the moment."""
    rng = random.Random(f"deed {seed} {number}")  # noqa: S311 - no secret
    deeds = [_deeds(action, observed) for action in dict.fromkeys(actions)]
    possible = [of_action for of_action in deeds if of_action]
    return rng.choice(rng.choice(possible)) if possible else None


def _deeds(action: Action, observed: Observed) -> list[Deed]:
    if action in _OF_RANKS:
        ranks = sorted(observed.ranks, key=lambda each: each.rank)
        return [Deed(action, each.pid, each.pod, each.rank) for each in ranks]
    if action in _OF_PODS:
        agents = observed.agents or {}
        return [Deed(action, agents[pod], pod) for pod in sorted(agents)]
    pid = observed.coordinator if action is Action.KILL_COORDINATOR else observed.operator
    return [] if pid is None else [Deed(action, pid)]
