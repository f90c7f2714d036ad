"""The regular end: ranks that have finished or left, and the conclusion of the job."""

from dataclasses import replace

from reknit.coordinator import ending, recovery
from reknit.coordinator.events import Outcome, Send
from reknit.coordinator.records import recovered, write
from reknit.coordinator.state import Membership
from reknit.protocol.agents import Conclude
from reknit.protocol.outcome import Conclusion, ExitClass


def settle(state: Membership, now: float) -> Outcome:
    """Concludes the job when every rank has finished, ends the generation when ranks have left."""
    running = state.current
    if running is None or running.faults or not running.all_finished:
        return state, ()
    step = max(state.steps.committed, *(member.step for member in running.members))
    if any(member.left for member in running.members):
        reason = f"the ranks have left at step {step}: {running.draining or 'they were told to'}"
        unsaved = next((m.unsaved for m in running.members if m.unsaved is not None), None)
        if unsaved is not None:
            reason += f"; {unsaved}"
            checkpoint = state.checkpoint.model_copy(update={"unsaved": unsaved})
            state = replace(state, checkpoint=checkpoint)
        state, actions = ending.end(state, running, reason, now, keep=False)
        note = write(now, "GenerationEnded", _sentence(reason), generation=running.id, step=step)
        return state, (note, *actions)
    message = "the command has finished" if state.policy.is_command else "training has finished"
    message += "" if state.policy.is_command else f" at step {step}"
    done = Conclusion(exit_class=ExitClass.SUCCEEDED, message=message, step=step)
    return conclude(state, done, now)


def conclude(state: Membership, conclusion: Conclusion, now: float) -> Outcome:
    """The job is over: tells every agent; those that come back later are told then."""
    recoveries, finished = recovery.finish(state.recoveries, now)
    error = conclusion.error
    actions: list[Send] = [
        Send(agent.connection, Conclude(incarnation=state.incarnation, conclusion=conclusion))
        for agent in state.agents.values()
        if agent.connection is not None
    ]
    generation = state.current.id if state.current else None
    notes = [
        write(
            now,
            "Concluded",
            f"The job is concluded as {conclusion.exit_class}: {conclusion.message}.",
            generation=generation,
            step=conclusion.step,
            detail=error.traceback if error else None,
        )
    ]
    if finished is not None and conclusion.exit_class is ExitClass.SUCCEEDED:
        notes.insert(0, recovered(generation, conclusion.step, finished, now))
    else:
        recoveries = replace(recoveries, last_seconds=state.recoveries.last_seconds)
    return replace(state, conclusion=conclusion, recoveries=recoveries), (*notes, *actions)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
