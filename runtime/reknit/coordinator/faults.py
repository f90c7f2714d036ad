"""What a fault means: whether the job goes on, and if not, why not."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from reknit.coordinator import budget, closing, ending, places
from reknit.coordinator.events import Outcome
from reknit.coordinator.records import write
from reknit.coordinator.state import Fault, Membership, Running, Strike
from reknit.protocol.outcome import Conclusion, ExitClass


def suspect(state: Membership, now: float) -> Outcome:
    """A broken connection between ranks that nothing explains in time is a fault of its own.

    No rank is blamed: which end of the connection is at fault, or whether the network between them
    is, cannot be told. All of them leave the generation and meet in the next one.
    """
    running = state.current
    if running is None or running.faults or running.hint is None:
        return state, ()
    hint, silence = running.hint, now - running.hint.since
    if silence < state.policy.verdict_wait.total_seconds():
        return state, ()
    fault = Fault(now, ExitClass.INFRASTRUCTURE, hint.sentence, from_process=False, silence=silence)
    text = hint.sentence[0].upper() + hint.sentence[1:] + "."
    note = write(now, "ConnectionLost", text, generation=running.id, rank=hint.rank)
    return replace(state, current=running.with_fault(fault)), (note,)


def settle(state: Membership, now: float) -> Outcome:
    """Ends a generation with faults, and the job if it cannot go on."""
    running = state.current
    if running is None or not running.faults or not is_due(state, running, now):
        return state, ()
    cause = cause_of(running)
    state = replace(state, failures_by_class=_counted(state.failures_by_class, cause))
    if cause.from_process:
        times = budget.charged(state.failure_times, state.policy, now)
        state = replace(state, failures=state.failures + 1, failure_times=times)
    conclusion = _verdict(state, running, cause)
    if conclusion is not None:
        return closing.conclude(state, conclusion, now)
    if _is_program_error(state, cause):
        strike = Strike(exceptions=_exceptions(running), committed=state.steps.committed)
        state = replace(state, strike=strike)
    state, actions = ending.end_for_recovery(state, running, cause, now)
    if cause.exit_class is ExitClass.WRONG_NUMBERS and cause.rank is not None:
        state, more = places.miscomputed(state, running.members[cause.rank].agent, now)
        actions += more
    return state, actions


def _counted(counts: Mapping[ExitClass, int], cause: Fault) -> dict[ExitClass, int]:
    return {**counts, cause.exit_class: counts.get(cause.exit_class, 0) + 1}


def is_due(state: Membership, running: Running, now: float) -> bool:
    """Whether enough is known to judge.

    An exception may be the consequence of a death elsewhere that is not reported yet, and the same
    exception on every rank is told from one on a single rank only when all have had the time to
    report it. Everything else is acted upon at once.
    """
    if state.policy.is_command:
        return True
    if any(f.error is None or f.exit_class in _CERTAIN for f in running.faults):
        return True
    if all(member.faulty or member.finished for member in running.members):
        return True
    first = running.faults[0].detected
    if now < first + state.policy.verdict_wait.total_seconds():
        return False
    agents = [state.agents[name] for name in running.agents if name in state.agents]
    return all(agent.connection is not None and agent.heard >= first for agent in agents)


def cause_of(running: Running) -> Fault:
    """The fault that explains the others.

    A wrong configuration before anything else; then a death without an exception, which makes
    exceptions elsewhere; then the program's first exception; then what is left.
    """

    def weight(fault: Fault) -> int:
        if fault.exit_class is ExitClass.CONFIGURATION:
            return 0
        if fault.error is None or fault.exit_class in _CERTAIN:
            return 1
        return 2 if fault.exit_class is ExitClass.PROGRAM_ERROR else 3

    return min(running.faults, key=weight)


_CERTAIN: Final = frozenset({ExitClass.CONFIGURATION, ExitClass.WRONG_NUMBERS})
"""Classes that no other fault explains."""


def _is_program_error(state: Membership, cause: Fault) -> bool:
    return (
        cause.exit_class is ExitClass.PROGRAM_ERROR
        and cause.error is not None
        and not state.policy.is_command
    )


def _exceptions(running: Running) -> frozenset[str]:
    return frozenset(
        fault.error.exception
        for fault in running.faults
        if fault.error is not None and fault.exit_class is ExitClass.PROGRAM_ERROR
    )


def _verdict(state: Membership, running: Running, cause: Fault) -> Conclusion | None:
    """The conclusion that this fault forces, None when the job can go on."""
    step = state.steps.committed
    if cause.exit_class is ExitClass.CONFIGURATION:
        text = cause.error.exception if cause.error else cause.sentence
        return Conclusion(exit_class=cause.exit_class, message=text, error=cause.error, step=step)
    if _is_program_error(state, cause):
        guilty, why = _conviction(state, running, cause)
        if why is not None and guilty.error is not None:
            return Conclusion(
                exit_class=ExitClass.PROGRAM_ERROR,
                message=f"{guilty.error.exception} ({why})",
                error=guilty.error,
                step=step,
            )
    why = budget.exhausted(state.failures, state.failure_times, state.policy)
    if cause.from_process and why is not None:
        return Conclusion(
            exit_class=cause.exit_class,
            message=f"{why}: {cause.sentence}",
            error=cause.error,
            step=step,
        )
    return None


def _conviction(state: Membership, running: Running, cause: Fault) -> tuple[Fault, str | None]:
    """Whether the program itself is at fault: the exception to blame and why; else no reason."""
    exceptions = {member.error.exception if member.error else None for member in running.members}
    if len(exceptions) == 1 and None not in exceptions:
        everywhere = "on the only rank" if len(running.members) == 1 else "the same on every rank"
        return cause, everywhere
    strike = state.strike
    if strike is None or state.steps.committed > strike.committed:
        return cause, None
    for fault in running.faults:
        again = fault.error is not None and fault.error.exception in strike.exceptions
        if again and fault.exit_class is ExitClass.PROGRAM_ERROR:
            return fault, f"on rank {fault.rank}, again after the step was redone"
    return cause, None
