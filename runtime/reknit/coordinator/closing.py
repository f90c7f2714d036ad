"""The regular end of generations: ranks that leave, and the conclusion of the job."""

from dataclasses import replace

from reknit.coordinator import ending, recovery
from reknit.coordinator.events import Outcome, Send
from reknit.coordinator.records import recovered, write
from reknit.coordinator.state import Membership, Running
from reknit.protocol.agents import Conclude, Drain
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
        state, actions = ending.end(state, running, reason, now)
        note = write(now, "GenerationEnded", _sentence(reason), generation=running.id, step=step)
        return state, (note, *actions)
    message = "the command has finished" if state.policy.is_command else "training has finished"
    message += "" if state.policy.is_command else f" at step {step}"
    done = Conclusion(exit_class=ExitClass.SUCCEEDED, message=message, step=step)
    return conclude(state, done, now)


def conclude(state: Membership, conclusion: Conclusion, now: float) -> Outcome:
    """The job is over: tells every agent; those that come back later are told then."""
    recoveries, seconds = recovery.finish(state.recoveries, now)
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
    if seconds and conclusion.exit_class is ExitClass.SUCCEEDED:
        notes.insert(0, recovered(generation, conclusion.step, seconds, now))
    else:
        recoveries = replace(recoveries, last_seconds=state.recoveries.last_seconds)
    return replace(state, conclusion=conclusion, recoveries=recoveries), (*notes, *actions)


def drain(state: Membership, now: float) -> Outcome:
    """Lets the ranks leave when a pod of theirs is about to go."""
    running = state.current
    if running is None or running.draining is not None or running.faults:
        return state, ()
    leaving = [
        name for name in running.agents if name in state.agents and state.agents[name].leaving
    ]
    if not leaving:
        return state, ()
    return start_drain(state, running, f"{', '.join(leaving)} must leave", now)


def start_drain(state: Membership, running: Running, reason: str, now: float) -> Outcome:
    """Tells the ranks of the generation to stop at the next step boundary."""
    message = Drain(generation=running.id, reason=reason)
    connections = [state.agents[name].connection for name in running.agents if name in state.agents]
    actions = [Send(number, message) for number in connections if number is not None]
    note = write(
        now,
        "Draining",
        f"The ranks leave at the next step boundary: {reason}.",
        generation=running.id,
        step=state.steps.committed,
    )
    return replace(state, current=replace(running, draining=reason)), (note, *actions)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
