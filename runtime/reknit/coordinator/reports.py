"""What agents and ranks say about the current generation, taken into the membership."""

from dataclasses import replace

from reknit.coordinator import hangs, pace, progress, recovery, stragglers
from reknit.coordinator.events import Action, Outcome, Write
from reknit.coordinator.records import count, recovered, write
from reknit.coordinator.state import Agent, Fault, Hint, Member, Membership, Running
from reknit.protocol.agents import Exited, FromSlot, SlotReport
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ErrorReport, ExitClass, ProcessExit
from reknit.protocol.ranks import (
    MEMORY,
    Beat,
    Checkpointed,
    CopyDiffered,
    Evaluated,
    Failed,
    Finished,
    Left,
    Parked,
    PeerLost,
    Phase,
    Resumed,
    StepDone,
    WrongNumbers,
)
from reknit.protocol.servers import Serving
from reknit.protocol.status import CheckpointStatus

LOADING_PHASES = frozenset({Phase.STARTING, Phase.LOADING})


def slots(state: Membership, agent: Agent, reported: tuple[SlotReport, ...], now: float) -> Outcome:
    """The state of an agent's processes, as told with every heartbeat."""
    running = state.current
    if running is None:
        return state, ()
    own = [slot for slot in reported if slot.generation == running.id and slot.rank is not None]
    if own:
        running = replace(running, confirmed=running.confirmed | {agent.name})
    actions: tuple[Action, ...] = ()
    for slot in own:
        member = _member(running, agent, slot.rank)
        if member is None:
            continue
        member = replace(
            member,
            phase=slot.phase or member.phase,
            step=max(member.step, slot.step),
            place=slot.place if slot.step >= member.step else member.place,
            pid=slot.pid,
            finished=member.finished or slot.finished,
            left=member.left or slot.left,
            unsaved=member.unsaved or slot.unsaved,
        )
        state = hangs.follow(state, running, member, now)
        running = running.with_member(member)
        if slot.peer_lost:
            running = _peer_lost(running, member, now)
        if _is_silent(state, slot) and not member.faulty and not member.finished:
            running = _silent(running, member, slot.silent_seconds, now)
            actions += (_rank_note(running, running.faults[-1], now),)
    state = _phases(replace(state, current=running), running, now)
    if state.policy.is_command and all(member.pid is not None for member in running.members):
        recoveries, finished = recovery.finish(state.recoveries, now)
        state = replace(state, recoveries=recoveries)
        if finished is not None:
            actions += (recovered(running.id, None, finished, now),)
    return state, actions


def _member(running: Running, agent: Agent, rank: int | None) -> Member | None:
    """The rank, if it is that agent's."""
    if rank is None or not 0 <= rank < len(running.members):
        return None
    member = running.members[rank]
    return member if member.agent == agent.name else None


def _is_silent(state: Membership, slot: SlotReport) -> bool:
    policy = state.policy
    loading = slot.phase is None or slot.phase in LOADING_PHASES
    limit = policy.loading_silence if loading else policy.dead_after
    return slot.silent_seconds > limit.total_seconds()


def _silent(running: Running, member: Member, silence: float, now: float) -> Running:
    sentence = f"rank {member.rank} on {member.agent} has been silent for {silence:.1f} s"
    fault = Fault(now, ExitClass.INFRASTRUCTURE, sentence, rank=member.rank, silence=silence)
    return running.with_member(replace(member, faulty=True)).with_fault(fault)


def _peer_lost(running: Running, member: Member, now: float) -> Running:
    """Whatever broke the connection is likely to be known in a moment; the first sign counts."""
    if running.hint is not None:
        return running
    sentence = f"rank {member.rank} on {member.agent} lost its connection to another rank"
    return replace(running, hint=Hint(now, member.rank, sentence))


def _phases(state: Membership, running: Running, now: float) -> Membership:
    """Notes when all ranks have joined."""
    current = state.recoveries.current
    if current is None or current.phase != recovery.JOIN:
        return state
    if any(member.phase is Phase.STARTING for member in running.members):
        return state
    return replace(state, recoveries=recovery.enter(state.recoveries, recovery.TRANSFER, now))


def exited(state: Membership, agent: Agent, message: Exited, now: float) -> Outcome:
    """A process has ended; unless it had nothing left to do, the generation cannot go on."""
    if state.gathering_until is not None:
        return state.with_agent(replace(agent, exits=(*agent.exits, message))), ()
    running = state.current
    if running is None or message.generation != running.id:
        return state, ()
    member = _member(running, agent, message.rank)
    if member is None:
        return state, ()
    ended = message.exit
    if member.left or (member.finished and ended.exit_class is ExitClass.SUCCEEDED):
        return state, ()
    if running.draining is not None and ended.exit_class is ExitClass.PREEMPTED:
        member = replace(member, finished=True, left=True)
        return replace(state, current=running.with_member(member)), ()
    return _failed(state, running, member, _how(member, ended), now)


def _how(member: Member, ended: ProcessExit) -> Fault:
    """The fault of a process that ended; its time is set by the caller."""
    where = f"rank {member.rank} on {member.agent}"
    error = ended.error or member.error
    exit_class = error.exit_class if error else ended.exit_class
    if exit_class is ExitClass.SUCCEEDED:
        text = "the process ended with exit status 0 before training had finished"
        error = ErrorReport(exception=text, traceback=text)
        exit_class = ExitClass.PROGRAM_ERROR
    if error is not None:
        sentence = f"{where} failed: {error.exception}"
    elif exit_class is ExitClass.OUT_OF_MEMORY:
        sentence = f"{where} ran out of memory"
    elif ended.signal is not None:
        sentence = f"{where} was ended by signal {ended.signal}"
    else:
        sentence = f"{where} ended with exit status {ended.exit_code}"
    return Fault(0.0, exit_class, sentence, rank=member.rank, error=error)


def _failed(
    state: Membership, running: Running, member: Member, fault: Fault, now: float
) -> Outcome:
    """Adds a rank's fault once, however often it is told."""
    if member.faulty:
        return state, ()
    fault = replace(fault, detected=now)
    member = replace(member, faulty=True, error=fault.error)
    running = running.with_member(member).with_fault(fault)
    return replace(state, current=running), (_rank_note(running, fault, now),)


def _rank_note(running: Running, fault: Fault, now: float) -> Write:
    sentence = fault.sentence[0].upper() + fault.sentence[1:] + "."
    detail = fault.error.traceback if fault.error else None
    return write(now, "RankExited", sentence, generation=running.id, rank=fault.rank, detail=detail)


def catch_up(state: Membership, name: str, now: float) -> Outcome:
    """Takes in what an agent's ranks said while nobody could judge it."""
    agent = state.agents[name]
    state = state.with_agent(replace(agent, told=()))
    actions: tuple[Action, ...] = ()
    for message in agent.told:
        state, more = said(state, agent, message, now)
        actions += more
    return state, actions


def said(state: Membership, agent: Agent, message: FromSlot, now: float) -> Outcome:
    """What a rank of the current generation says; of other generations nothing counts."""
    if state.gathering_until is not None and not isinstance(message.message, Beat):
        return state.with_agent(replace(agent, told=(*agent.told, message))), ()
    running, previous, inner = state.current, state.previous, message.message
    if isinstance(inner, StepDone) and previous is not None and inner.generation == previous.id:
        # A rank that had passed the gate completes the step even if its generation has ended.
        known = agent.name in previous.agents
        steps = progress.remember(state.steps, message.rank, inner) if known else state.steps
        return replace(state, steps=steps), ()
    if running is None:
        return state, ()
    member = _member(running, agent, message.rank)
    if member is None or getattr(inner, "generation", running.id) != running.id:
        return state, ()
    match inner:
        case Parked() | Left() | Serving():
            return state, ()
        case PeerLost():
            return replace(state, current=_peer_lost(running, member, now)), ()
        case Beat():
            member = replace(
                member,
                phase=inner.phase,
                step=max(member.step, inner.step),
                place=inner.place if inner.step >= member.step else member.place,
            )
            state = hangs.follow(state, running, member, now)
            return _phases(state, running.with_member(member), now), ()
        case StepDone():
            member = replace(member, phase=Phase.STEP, step=max(member.step, inner.step))
            state = hangs.follow(state, running, member, now)
            loads = stragglers.note(state.loads, member.rank, member.agent, inner)
            return _step(replace(state, loads=loads), message, inner, now)
        case Finished():
            member = replace(
                member,
                phase=Phase.CLOSING,
                step=max(member.step, inner.step),
                finished=True,
                left=inner.left,
                unsaved=inner.unsaved,
            )
            return hangs.follow(state, running, member, now), ()
        case Failed(error=error):
            sentence = f"rank {member.rank} on {member.agent} failed: {error.exception}"
            fault = Fault(now, error.exit_class, sentence, rank=member.rank, error=error)
            return _failed(state, running, member, fault, now)
        case Resumed():
            return _resumed(state, running, inner, now)
        case Checkpointed():
            return _checkpointed(state, running, inner, now)
        case CopyDiffered():
            return state, (_copy_note(running, member, inner, now),)
        case WrongNumbers():
            text = f"Wrong numbers in step {inner.step}: {inner.sentence}."
            rank = inner.ranks[0] if len(inner.ranks) == 1 else None
            note = write(
                now,
                "WrongNumbers",
                text,
                generation=running.id,
                rank=rank,
                step=inner.step,
                detail=inner.blame,
            )
            return state, (note,)
        case Evaluated():
            figures = ", ".join(f"{name} {value:.4g}" for name, value in inner.metrics.items())
            text = f"The evaluation at step {inner.step} gave {figures or 'no figures'}."
            note = write(
                now,
                "Evaluated",
                text,
                generation=running.id,
                step=inner.step,
                figures=inner.metrics,
            )
            return state, (note,)


def _copy_note(running: Running, member: Member, message: CopyDiffered, now: float) -> Write:
    text = (
        f"The copy of rank {message.ward}'s shard on rank {member.rank} on {member.agent} differed "
        f"from its original at step {message.step}, and was made anew."
    )
    return write(
        now,
        "CopyDiffered",
        text,
        generation=running.id,
        rank=member.rank,
        step=message.step,
        figures={"ward": message.ward},
    )


def _step(state: Membership, message: FromSlot, done: StepDone, now: float) -> Outcome:
    generation, before = done.generation, state.steps.committed
    when = _said_at(state, message, now)
    steps, records = progress.report(state.steps, generation, message.rank, done, when)
    rhythm = state.pace
    for record in records:
        rhythm = pace.stepped(rhythm, record.seconds.get("total"), when)
    state = replace(state, steps=steps, pace=rhythm)
    actions: tuple[Action, ...] = tuple(Write(record) for record in records)
    if records:
        state, more = _compare(state, generation, when)
        actions += more
    if steps.committed > before:
        state = replace(state, failures=0)
    current = state.recoveries.current
    if current is not None and steps.committed > current.target and records:
        recoveries, finished = recovery.finish(state.recoveries, when)
        state = replace(state, recoveries=recoveries)
        if finished is not None:
            actions += (recovered(generation, steps.committed, finished, when),)
    return state, actions


def _compare(state: Membership, generation: Generation, now: float) -> Outcome:
    """Names ranks that have become slower than the others, or are not any more."""
    members = state.current.members if state.current else ()
    loads, changed = stragglers.judge(state.loads, range(len(members)))
    notes: tuple[Action, ...] = ()
    for rank in changed:
        load = loads[rank]
        ratio = load.ratio or 0.0
        where = f"Rank {rank} on {load.agent}"
        if load.is_straggler:
            reason = "Straggler"
            text = f"{where} computes {ratio:.1f} times as long as the median of all ranks."
        else:
            reason, text = "StragglerGone", f"{where} computes as fast as the others again."
        notes += (
            write(
                now,
                reason,
                text,
                generation=generation,
                rank=rank,
                step=state.steps.emitted,
                figures={"slowdown": ratio},
            ),
        )
    return replace(state, loads=loads), notes


def _said_at(state: Membership, message: FromSlot, now: float) -> float:
    """When the rank said it, by this clock, and not before what it follows."""
    last, current = state.steps.last, state.recoveries.current
    earliest = (last.time if last else 0.0, current.since if current else 0.0)
    return max(now - max(0.0, message.waited), *earliest)


def _resumed(state: Membership, running: Running, message: Resumed, now: float) -> Outcome:
    before = state.steps.committed
    steps, redone, records = progress.resume(state.steps, message.step, now)
    recoveries = recovery.resumed(state.recoveries, message.source, redone, message.seconds, now)
    if message.source == MEMORY:
        text = f"Training goes on from step {message.step} in memory"
    elif message.step == 0:
        text = "Training starts from the beginning"
    else:
        text = f"Training goes on from step {message.step}"
    if redone:
        text += f"; {count(redone, 'step')} {'is' if redone == 1 else 'are'} redone"
    if message.anew:
        text += f"; what compression had left out is lost on ranks {sorted(message.anew)}"
    if message.damaged:
        text += f"; newer checkpoints cannot be used ({'; '.join(message.damaged)})"
    note = write(
        now,
        "Resumed",
        text + ".",
        generation=running.id,
        step=message.step,
        figures={"lost_steps": redone, "redone_steps": redone},
        detail=message.source,
    )
    state = replace(
        state,
        steps=steps,
        recoveries=recoveries,
        checkpoint=state.checkpoint.model_copy(update={"unsaved": None}),
        failures=0 if steps.committed > before else state.failures,
    )
    return state, (*map(Write, records), note)


def _checkpointed(
    state: Membership, running: Running, message: Checkpointed, now: float
) -> Outcome:
    if message.error is not None:
        checkpoint = state.checkpoint.model_copy(update={"error": message.error})
        reason = "CheckpointFailed"
        text = f"The checkpoint of step {message.step} could not be written: {message.error}"
        figures = {}
    else:
        checkpoint = CheckpointStatus(step=message.step, location=message.location)
        reason = "Checkpointed"
        text = f"The checkpoint of step {message.step} is durable after {message.seconds:.2f} s."
        figures = {"seconds": message.seconds}
    note = write(
        now,
        reason,
        text,
        generation=running.id,
        step=message.step,
        figures=figures,
        detail=message.location,
    )
    return replace(state, checkpoint=checkpoint), (note,)
