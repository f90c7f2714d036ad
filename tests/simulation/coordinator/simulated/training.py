"""Training without numbers: who takes part in a step, what is held in memory, what is durable.

The state is replicated: each rank holds all of it. A step is a gate, after which every rank that
has passed it holds the next version, whatever happens to its generation.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from simulated.parts import Agent, Process
from simulated.wrongs import Program

from reknit.agent import events as agent_events
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ErrorReport
from reknit.protocol.ranks import (
    BEGINNING,
    MEMORY,
    Abort,
    Assign,
    Checkpointed,
    Failed,
    Finished,
    Leave,
    Left,
    Parked,
    PeerLost,
    Phase,
    Release,
    Resumed,
    StepDone,
)

TOTAL_STEPS = 12
CHECKPOINT_EVERY = 4


class Training:
    """The ranks' part of a simulated job."""

    now: float
    random: Random
    program: Program | None
    agents: list[Agent]
    later: Callable[[float, float, Callable[[], object]], None]

    def __init__(self) -> None:
        self.raised = 0
        self.checkpoint = 0
        self.leave: set[tuple[int, int]] = set()
        """Generations with a rank that was told to leave after a checkpoint."""
        self.stay: set[tuple[int, int]] = set()
        """Generations with a rank that was told to leave with its state."""
        self.num_moves = 0
        self.resumed: set[tuple[int, int]] = set()
        self.finished: dict[tuple[int, int], set[int]] = {}
        self.newest_step = (0, 0)
        """The newest generation that has made a step."""
        self.resumptions: list[tuple[int, int]] = []
        """Versions from which training went on, each with the newest one that was left anywhere."""
        self.lost_message: Generation | None = None
        """The generation in which all ranks wait for what will never come."""
        self.num_sacrificed = 0
        """Ranks that an agent has killed though they were well."""

    # The life of a process

    def started(self, process: Process) -> None:
        if process.is_well:
            process.agent.feed(agent_events.Started(process.launch, 4000 + process.launch))
            process.phase = Phase.LOADING
            self.later(0.05, 0.5, lambda: self.warmed(process))

    def warmed(self, process: Process) -> None:
        if not process.is_well:
            return
        process.warm = True
        if process.assign is None:
            process.say(Parked())
        else:
            self.join(process, process.assign)

    def placed(self, process: Process, assign: Assign) -> None:
        assert not process.is_acting
        taken = {other.assign.rank for other in self.ranks(assign.generation) if other.assign}
        assert assign.rank not in taken, f"two processes are rank {assign.rank}"
        process.assign, process.joined, process.has_left = assign, False, False
        process.phase, process.place = Phase.LOADING, 0
        if process.warm:
            self.join(process, assign)

    def join(self, process: Process, assign: Assign) -> None:
        self.later(0.01, 0.3, lambda: self.joined(process, assign))

    def told(self, process: Process, message: object) -> None:
        match message:
            case Abort(generation=generation):
                process.aborted = generation
                self.later(0.001, 0.3, lambda: self.aborted(process, generation))
            case Leave(stay=stay) if process.is_acting and process.assign is not None:
                (self.stay if stay else self.leave).add(process.assign.generation.key())
            case Leave(stay=False) if process.left is not None:
                lost = "the latest steps are in memory alone"
                process.say(
                    Finished(
                        generation=process.left, step=process.memory or 0, left=True, unsaved=lost
                    )
                )
            case Release():
                process.end(code=0)

    def aborted(self, process: Process, generation: Generation) -> None:
        """A rank that has passed the gate completes the step before it says that it has left."""
        if process.is_well and process.acts_in(generation):
            self.apply(process)
            process.left = generation
            process.say(Left(generation=generation, step=process.memory or 0))
            if process.has_left:
                process.end(code=0)

    # Generations

    def ranks(self, generation: Generation) -> list[Process]:
        """Those that still speak with each other."""
        found = [
            process
            for agent in self.agents
            if agent.alive
            for process in agent.processes.values()
            if process.acts_in(generation) and process.aborted != generation
        ]
        return sorted(found, key=lambda process: process.assign.rank if process.assign else -1)

    def complete(self, generation: Generation) -> list[Process]:
        """All ranks of the generation; none when one of them is missing."""
        ranks = self.ranks(generation)
        size = ranks[0].assign.world_size if ranks and ranks[0].assign else 0
        return ranks if len(ranks) == size else []

    def joined(self, process: Process, assign: Assign) -> None:
        """The group is there when its last rank is."""
        generation = assign.generation
        if not process.is_well or not process.acts_in(generation):
            return
        process.joined, process.place = True, 1
        ranks = self.complete(generation)
        if not ranks or not all(rank.joined for rank in ranks):
            return
        if generation.key() not in self.resumed:
            self.resumed.add(generation.key())
            self.resume(generation, ranks)

    def resume(self, generation: Generation, ranks: list[Process]) -> None:
        """The newest version that a rank holds goes to all others, unless a checkpoint is newer."""
        held = max((rank.memory for rank in ranks if rank.memory is not None), default=-1)
        version = max(held, self.checkpoint)
        left = [
            process.memory
            for agent in self.agents
            if agent.alive
            for process in agent.processes.values()
            if process.is_well and process.memory is not None
        ]
        self.resumptions.append((version, max([*left, self.checkpoint])))
        source = MEMORY if version == held else f"step-{version}" if version else BEGINNING
        for rank in ranks:
            rank.memory, rank.passed, rank.phase = version, None, Phase.STEP
        seconds = {name: self.random.uniform(0.0, 0.1) for name in ("join", "agree", "transfer")}
        ranks[0].say(Resumed(generation=generation, step=version, source=source, seconds=seconds))
        self.later(0.06, 0.3, lambda: self.step(generation))

    def step(self, generation: Generation) -> None:
        """One collective step, if all ranks are able to take part."""
        ranks = self.complete(generation)
        if not ranks:
            for rank in self.ranks(generation):
                self.later(0.01, 0.3, lambda rank=rank: self.lose_peer(rank, generation))
            return
        for rank in ranks:
            # Whoever hangs has begun the step; all others wait for it in the gate.
            rank.place = 2 * (rank.memory or 0) + (1 if rank.hung or rank.frozen else 2)
        if not all(rank.is_well for rank in ranks) or self.lost_message == generation:
            self.later(0.1, 0.3, lambda: self.step(generation))
            return
        [done] = {rank.memory for rank in ranks}
        assert done is not None
        if done < TOTAL_STEPS and self.raises(done, ranks, generation):
            return
        key = generation.key()
        left = key in self.leave and done < TOTAL_STEPS
        if left or done == TOTAL_STEPS:
            self.checkpoint = max(self.checkpoint, done)
            for rank in ranks:
                rank.phase, rank.has_left = Phase.CLOSING, left
                rank.say(Finished(generation=generation, step=done, left=left))
            if not left:
                self.finished[key] = {rank.assign.rank for rank in ranks if rank.assign}
            return
        if key in self.stay:
            self.move(ranks, generation)
            return
        assert key >= self.newest_step, "a generation goes on beside a newer one"
        self.newest_step = key
        self.pass_gate(ranks, done + 1)
        self.later(0.06, 0.3, lambda: self.step(generation))

    def move(self, ranks: list[Process], generation: Generation) -> None:
        """All ranks leave at the same boundary, with what they hold."""
        self.num_moves += 1
        for rank in ranks:
            rank.left = generation
            rank.say(Left(generation=generation, step=rank.memory or 0))

    def pass_gate(self, ranks: list[Process], step: int) -> None:
        """From here on every rank completes the step for itself."""
        for rank in ranks:
            rank.passed = step
            self.later(0.0, 0.05, lambda rank=rank: self.apply(rank))
        if step % CHECKPOINT_EVERY == 0:
            self.checkpoint = max(self.checkpoint, step)
            ranks[0].say(Checkpointed(step=step, location=f"step-{step}", seconds=0.1))

    def apply(self, rank: Process) -> None:
        if not rank.is_well or rank.passed is None or rank.assign is None:
            return
        rank.memory, rank.passed = rank.passed, None
        rank.say(
            StepDone(
                generation=rank.assign.generation,
                step=rank.memory,
                total_steps=TOTAL_STEPS,
                samples=8,
                metrics={"loss": 1.0 / rank.memory},
                seconds={"total": 0.1},
            )
        )

    # What goes wrong

    def lose_peer(self, rank: Process, generation: Generation) -> None:
        """A broken connection: the rank says so, and waits for what its agent says."""
        if rank.is_well and rank.acts_in(generation) and rank.aborted != generation:
            rank.say(PeerLost(generation=generation))

    def raises(self, done: int, ranks: list[Process], generation: Generation) -> bool:
        """Whether the user's program fails in this step."""
        program = self.program
        if program is None or done != program.step or self.raised >= program.times:
            return False
        self.raised += 1
        text = "ValueError: no such thing"
        error = ErrorReport(exception=text, traceback=text, exit_class=program.exit_class)
        for rank in ranks:
            if program.ranks is None or (rank.assign and rank.assign.rank in program.ranks):
                self.later(0.0, 0.2, lambda rank=rank: self.raise_(rank, error))
            elif self.random.random() < 0.5:
                self.later(0.2, 0.4, lambda rank=rank: self.lose_peer(rank, generation))
        return True

    def raise_(self, process: Process, error: ErrorReport) -> None:
        if process.is_well and process.assign is not None:
            process.say(Failed(generation=process.assign.generation, error=error))
            process.end(code=1)
