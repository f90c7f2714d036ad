"""The job's membership as a pure state machine: (state, event, time) -> (state, actions).

Events change what is known; what follows from it is then derived from the state alone, in a fixed
order, so that no decision depends on which event happened to come last. The rules:

- At most one generation runs. The next one begins when on no live agent a process acts in an older
  one.
- A fault ends the generation on all agents. Processes that are well leave it, keep its state and
  take part in the next one; those of ranks at fault are killed, and commands always.
- The job is concluded when every rank has finished, or when the program or its configuration is at
  fault, or when recoveries bring no progress.
- An agent that has promised a higher incarnation proves that there is another coordinator: this one
  then says nothing more.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from reknit.coordinator import (
    adoption,
    closing,
    draining,
    faults,
    forming,
    hangs,
    places,
    registration,
    reports,
    servers,
)
from reknit.coordinator.events import (
    Action,
    ConfirmedGone,
    Disconnected,
    Event,
    HangUp,
    Outcome,
    Received,
    Tick,
)
from reknit.coordinator.state import Membership
from reknit.protocol.agents import (
    Exited,
    FromSlot,
    Heartbeat,
    Leaving,
    Register,
    Stopped,
)
from reknit.protocol.servers import FromServer, ServerEnded

RULES: Final[tuple[Callable[[Membership, float], Outcome], ...]] = (
    registration.expire,
    adoption.settle,
    servers.settle,
    faults.suspect,
    hangs.stuck,
    faults.settle,
    closing.settle,
    draining.hurry,
    draining.settle,
    draining.drain,
    forming.grow,
    forming.form,
    # Once more: a new generation has other workers.
    servers.settle,
)


def handle(state: Membership, event: Event, now: float) -> Outcome:
    """The membership after `event` at time `now` (seconds since the epoch, never going back)."""
    if state.superseded_by is not None:
        return state, ()
    state, actions = _learn(_excused(state, now), event, now)
    for rule in RULES:
        if state.conclusion is not None or state.superseded_by is not None:
            break
        state, more = rule(state, now)
        actions += more
    return state, actions


def _learn(state: Membership, event: Event, now: float) -> Outcome:
    match event:
        case Received(connection, message):
            if isinstance(message, Register):
                return registration.register(state, connection, message, now)
            return _heard(state, event, now)
        case Disconnected(connection):
            return registration.disconnected(state, connection), ()
        case ConfirmedGone(agent):
            return registration.confirmed_gone(state, agent, now)
        case Tick():
            return state, ()


def _excused(state: Membership, now: float) -> Membership:
    """Ticks come often; a long time without any event was this coordinator's own absence."""
    since = now - state.last_event
    if since > state.policy.dead_after.total_seconds() / 2:
        state = registration.excuse(state, since, now)
    return replace(state, last_event=now)


def _heard(state: Membership, event: Received, now: float) -> Outcome:
    """A message of an agent that has registered; any other connection is closed."""
    agent = state.agent_of(event.connection)
    if agent is None:
        actions: tuple[Action, ...] = (HangUp(event.connection),)
        return state, actions
    agent = replace(agent, heard=now)
    state = state.with_agent(agent)
    if state.conclusion is not None:
        return state, ()
    match event.message:
        case Heartbeat(slots=slots, store=store, num_warm=num_warm, place=place):
            is_warm = places.is_warm(state.policy, num_warm)
            agent = replace(agent, slots=slots, store=store, is_warm=is_warm, claim=place)
            return reports.slots(state.with_agent(agent), agent, slots, now)
        case Exited() as message:
            return reports.exited(state, agent, message, now)
        case Stopped() as message:
            return registration.stopped(state, agent, message, now)
        case Leaving(grace_seconds=grace_seconds):
            return registration.leaving(state, agent, grace_seconds, now)
        case FromSlot() as message:
            return reports.said(state, agent, message, now)
        case FromServer() as message:
            return servers.heard(state, agent, message, now)
        case ServerEnded() as message:
            return servers.ended(state, agent, message), ()
        case Register():
            return state, ()
