"""Training without numbers: who takes part in a step, and what is durable."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from simulated.parts import Agent, Process
from simulated.wrongs import Program, peer_lost

from reknit.agent import events as agent_events
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ErrorReport
from reknit.protocol.ranks import (
    Checkpointed,
    Failed,
    Finished,
    Leave,
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
        self.steps: dict[tuple[int, int], int] = {}
        self.finished: dict[tuple[int, int], set[int]] = {}

    def started(self, process: Process) -> None:
        if not process.alive:
            return
        process.agent.feed(agent_events.Started(process.launch, 4000 + process.launch))
        process.phase = Phase.LOADING
        self.later(0.05, 0.5, lambda: self.joined(process))

    def joined(self, process: Process) -> None:
        """The collective is there when its last rank is."""
        process.joined = True
        generation = process.assign.generation
        ranks = self.ranks(generation)
        if len(ranks) == process.assign.world_size and all(p.joined for p in ranks):
            if generation.key() in self.steps:
                return
            self.steps[generation.key()] = self.checkpoint
            for rank in ranks:
                rank.step = self.checkpoint
                rank.phase = Phase.STEP
            source = "beginning" if self.checkpoint == 0 else f"step-{self.checkpoint}"
            ranks[0].say(Resumed(generation=generation, step=self.checkpoint, source=source))
            self.later(0.05, 0.3, lambda: self.step(generation))

    def ranks(self, generation: Generation) -> list[Process]:
        found = [
            process
            for agent in self.agents
            if agent.alive
            for process in agent.processes.values()
            if process.assign.generation == generation and process.alive
        ]
        return sorted(found, key=lambda process: process.assign.rank)

    def step(self, generation: Generation) -> None:
        """One collective step, if all ranks are able to take part."""
        ranks = self.ranks(generation)
        key = generation.key()
        if not ranks or len(ranks) < ranks[0].assign.world_size:
            for rank in ranks:
                if self.random.random() < 0.5:
                    self.later(0.01, 0.3, lambda rank=rank: self.raise_(rank, peer_lost()))
            return
        if any(rank.frozen for rank in ranks):
            self.later(0.1, 0.3, lambda: self.step(generation))
            return
        done = self.steps[key]
        if done < TOTAL_STEPS and self.raises(done, ranks):
            return
        left = key in self.leave and done < TOTAL_STEPS
        if left or done == TOTAL_STEPS:
            self.checkpoint = max(self.checkpoint, done)
            for rank in ranks:
                rank.phase = Phase.CLOSING
                rank.say(Finished(generation=generation, step=done, left=left))
                rank.finished = True
            if not left:
                self.finished[key] = {rank.assign.rank for rank in ranks}
            return
        self.commit(generation, ranks, done + 1)
        self.later(0.05, 0.3, lambda: self.step(generation))

    def commit(self, generation: Generation, ranks: list[Process], step: int) -> None:
        self.steps[generation.key()] = step
        for rank in ranks:
            rank.step = step
            rank.say(
                StepDone(
                    generation=generation,
                    step=step,
                    total_steps=TOTAL_STEPS,
                    samples=8,
                    metrics={"loss": 1.0 / step},
                )
            )
        if step % CHECKPOINT_EVERY == 0:
            self.checkpoint = max(self.checkpoint, step)
            ranks[0].say(Checkpointed(step=step, location=f"step-{step}", seconds=0.1))

    def raises(self, done: int, ranks: list[Process]) -> bool:
        """Whether the user's program fails in this step."""
        program = self.program
        if program is None or done != program.step or self.raised >= program.times:
            return False
        self.raised += 1
        text = "ValueError: no such thing"
        error = ErrorReport(exception=text, traceback=text, exit_class=program.exit_class)
        for rank in ranks:
            if program.ranks is None or rank.assign.rank in program.ranks:
                self.later(0.0, 0.2, lambda rank=rank: self.raise_(rank, error))
            elif self.random.random() < 0.5:
                self.later(0.2, 0.4, lambda rank=rank: self.raise_(rank, peer_lost()))
        return True

    def raise_(self, process: Process, error: ErrorReport) -> None:
        if process.alive:
            process.say(Failed(generation=process.assign.generation, error=error))
            process.end(code=1)

    def told(self, agent: Agent, launch: int, message: object) -> None:
        process = agent.processes.get(launch)
        if process is None or not process.alive:
            return
        if isinstance(message, Leave):
            self.leave.add(process.assign.generation.key())
        if isinstance(message, Release):
            process.end(code=0)
