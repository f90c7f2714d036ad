"""Ranks that live and do not get on: who is waited for.

All ranks do the same things in the same order, and wait for each other in between. When none of
them comes further for longer than the job's steps explain, the one that is behind the others has
hung.
"""

from collections.abc import Iterable
from dataclasses import replace

from reknit.coordinator import pace
from reknit.coordinator.events import Action, Outcome
from reknit.coordinator.records import write
from reknit.coordinator.state import Fault, Member, Membership, Running
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import Phase


def follow(state: Membership, running: Running, member: Member, now: float) -> Membership:
    """The membership with what is newly known of one rank of the current generation."""
    before = running.members[member.rank]
    if _position(before) != _position(member):
        in_step = member.phase is Phase.STEP
        state = replace(state, pace=pace.moved(state.pace, now, in_step=in_step))
    return replace(state, current=running.with_member(member))


def _position(member: Member) -> tuple[Phase, int, int, bool]:
    return member.phase, member.step, member.place, member.finished


def stuck(state: Membership, now: float) -> Outcome:
    """Ends a generation in which nobody comes further.

    Whoever is behind is killed, and the others live on. When all have come equally far, no one is
    to blame: what they wait for got lost, and they do the step again. If that does not help, it
    counts as a failure of the processes.
    """
    running = state.current
    if running is None or running.faults or state.policy.is_command:
        return state, ()
    floor = min(state.policy.hang_after, state.policy.phase_limit)
    if now - state.pace.moved < floor.total_seconds():
        return state, ()
    silence = _known_until(state, running) - state.pace.moved
    present = _present(state, running)
    behind = laggards(present)
    limit = pace.limit_of(
        state.pace,
        in_step=all(member.phase is Phase.STEP for member in behind),
        floor=state.policy.hang_after,
        otherwise=state.policy.phase_limit,
    )
    if not behind or silence < limit:
        return state, ()
    if len(behind) < len(present):
        return _blame(state, running, behind, silence, now)
    return _stall(state, running, behind[0], silence, now)


def laggards(members: Iterable[Member]) -> tuple[Member, ...]:
    """The ranks that have come least far; all of them if they have come equally far."""
    unfinished = [member for member in members if not member.finished]
    least = min(((member.step, member.place) for member in unfinished), default=None)
    return tuple(member for member in unfinished if (member.step, member.place) == least)


def _known_until(state: Membership, running: Running) -> float:
    """Until when all ranks of the generation have been watched."""
    agents = [state.agents[name] for name in running.agents if name in state.agents]
    if any(agent.connection is None for agent in agents):
        return state.pace.moved
    return min((agent.heard for agent in agents), default=state.pace.moved)


def _present(state: Membership, running: Running) -> tuple[Member, ...]:
    """Ranks that are in the generation by the latest word of their agents.

    Others have left it, or their agent is about to say what has become of them.
    """
    return tuple(
        member
        for member in running.members
        if member.agent in state.agents
        and any(
            slot.generation == running.id and slot.rank == member.rank
            for slot in state.agents[member.agent].slots
        )
    )


def _blame(
    state: Membership, running: Running, behind: Iterable[Member], silence: float, now: float
) -> Outcome:
    actions: tuple[Action, ...] = ()
    for member in behind:
        sentence = (
            f"rank {member.rank} on {member.agent} has hung for {silence:.1f} s "
            f"{_where(member)}: the others wait for it"
        )
        fault = Fault(now, ExitClass.INFRASTRUCTURE, sentence, rank=member.rank, silence=silence)
        running = running.with_member(replace(member, faulty=True)).with_fault(fault)
        text = sentence[0].upper() + sentence[1:] + "."
        actions += (write(now, "Hung", text, generation=running.id, rank=member.rank),)
    return replace(state, current=running), actions


def _stall(
    state: Membership, running: Running, member: Member, silence: float, now: float
) -> Outcome:
    again = state.stalled_at is not None and state.stalled_at >= state.steps.committed
    sentence = f"no rank has come further for {silence:.1f} s {_where(member)}"
    fault = Fault(now, ExitClass.INFRASTRUCTURE, sentence, from_process=again, silence=silence)
    note = write(now, "Hung", sentence[0].upper() + sentence[1:] + ".", generation=running.id)
    state = replace(state, stalled_at=state.steps.committed)
    return replace(state, current=running.with_fault(fault)), (note,)


def _where(member: Member) -> str:
    if member.phase is Phase.STEP:
        return f"in step {member.step + 1}"
    return f"in phase {member.phase} after step {member.step}"
