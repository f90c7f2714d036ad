"""Kills ranks at chosen moments, and times how long all ranks need to be where they would be."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from quota import next_moment
from reknit.rank.board import BoardReader, Moment, Shown

WORLD_SIZE = 4
POLL = 0.001
IDLE_POLL = 0.02
"""While no kill is due: looking costs time of the cores that train."""
PATIENCE = 180.0
"""Seconds after which a job that makes no step counts as hanging."""
QUIET_STEPS = 10
"""Least number of steps between a recovery and the next kill."""
SPREAD_STEPS = 10
"""At most so many more, at random: else kills would come soon after the peer's checkpoints."""
SEEKING_STEPS = 15
"""If no rank is seen in the wanted moment for so long, it is another moment's turn."""
LAST_STEPS = 4
"""So close to the end nothing is killed: a recovery is over when two more steps are made."""


class HangError(Exception):
    """The job made no step for a long time."""


@dataclass
class Hit:
    """One kill, and what followed."""

    time: float
    rank: int
    pid: int
    wanted: Moment
    moment: Moment = Moment.IDLE
    """What the process did when it died."""
    step: int = 0
    """The version that it held."""
    reached: dict[int, float] = field(default_factory=dict)
    """When all ranks held a version at last, seconds since the epoch."""


class Killer:
    """Disturbs runs one after the other until each moment had its kills.

    Args:
        wanted: the moments to be hit.
        number: of kills in all.
        rng: chooses victims.
        tell: takes a line of progress.
    """

    def __init__(
        self, wanted: Sequence[Moment], number: int, rng: random.Random, tell: Callable[[str], None]
    ) -> None:
        self.hit: Counter[Moment] = Counter()
        """Kills by the moment in which they came."""
        self._missed: Counter[Moment] = Counter()
        self._wanted = wanted
        self._left = number
        self._rng = rng
        self._tell = tell

    @property
    def left(self) -> int:
        """Kills still to be made."""
        return self._left

    def disturb(
        self,
        board: Path,
        marks: Mapping[str, str],
        *,
        steps: int,
        at_most: int,
        is_over: Callable[[], bool],
    ) -> list[Hit]:
        """Kills at most so many ranks of a run of so many steps; returns when it is over.

        Args:
            board: the progress board of the run.
            marks: what stands in the environment of its processes.
            steps: of the run.
            at_most: number of kills.
            is_over: whether the run has ended.

        Raises:
            HangError: no step was made for a long time.
        """
        watch, hits, allowed = _Watch(board, marks), list[Hit](), self._pause()
        try:
            while len(hits) < at_most and self._left and not is_over():
                hit = self._strike(watch, allowed, steps - LAST_STEPS, is_over)
                if hit is None:
                    break
                hits.append(hit)
                self._left -= 1
                watch.dead.add(hit.pid)
                self._follow(watch, hit, is_over)
                self.hit[hit.moment] += 1
                allowed = max(hit.reached, default=hit.step) + self._pause()
                if hit.reached:
                    seconds = hit.reached[min(hit.reached)] - hit.time
                    self._tell(
                        f"rank {hit.rank} killed in {hit.moment.name.lower()} of step "
                        f"{hit.step + 1}: all ranks have it after {seconds:.2f} s"
                    )
            watch.until(is_over, IDLE_POLL)
        finally:
            watch.close()
        return hits

    def _pause(self) -> int:
        return QUIET_STEPS + self._rng.randrange(SPREAD_STEPS)

    def _strike(
        self,
        watch: "_Watch",
        first: int,
        last: int,
        is_over: Callable[[], bool],
    ) -> Hit | None:
        """Kills one rank between these steps; None if it came to no kill."""
        watch.until(lambda: is_over() or watch.least() >= first, IDLE_POLL)
        wanted, until = self._next_moment(), first + SEEKING_STEPS
        # Not always the first instant of the moment.
        delay = self._rng.expovariate(1 / 0.005)
        for shown in watch.looks(POLL):
            step = least_version(shown)
            if is_over() or step > last:
                return None
            if step > until:
                self._missed[wanted] += 1
                wanted, until = self._next_moment(), step + SEEKING_STEPS
            seen = [r for r in shown.values() if r.moment is wanted and first <= r.step <= last]
            if not seen:
                continue
            victim = self._rng.choice(seen)
            if wanted in (Moment.FORWARD, Moment.BACKWARD):
                # A pass is hit anywhere within it, not at its beginning.
                time.sleep(delay)
            now = time.time()
            with suppress(ProcessLookupError):  # it has ended on its own account
                signal.pidfd_send_signal(watch.descriptors[victim.pid], signal.SIGKILL)
                return Hit(now, victim.rank, victim.pid, wanted)
        raise AssertionError("looks never end")

    def _next_moment(self) -> Moment:
        """The moment that is due; one that was sought in vain waits for its next turn."""
        return next_moment(self._wanted, self.hit + self._missed)

    def _follow(self, watch: "_Watch", hit: Hit, is_over: Callable[[], bool]) -> None:
        """Waits until all ranks have made the interrupted step and the one after it."""
        watch.until(lambda: _has_ended(hit.pid), POLL)
        last = watch.last(hit.pid)
        hit.moment, hit.step = last.moment, last.step
        for target in (hit.step + 1, hit.step + 2):
            watch.until(partial(_holds, watch, target, is_over), POLL)
            if watch.least() >= target:
                hit.reached[target] = time.time()


def _holds(watch: "_Watch", version: int, is_over: Callable[[], bool]) -> bool:
    return is_over() or watch.least() >= version


def least_version(ranks: Mapping[int, Shown]) -> int:
    """The version that all ranks hold, and train with; -1 while one is missing."""
    away = (Moment.JOIN, Moment.AGREE, Moment.TRANSFER)
    training = [each.step for each in ranks.values() if each.moment not in away]
    return min(training) if len(training) == WORLD_SIZE else -1


def _has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


class _Watch:
    """The board of one run, as far as it is about its living ranks."""

    def __init__(self, board: Path, marks: Mapping[str, str]) -> None:
        self._reader = BoardReader(board)
        self._marks = {f"{name}={value}".encode() for name, value in marks.items()}
        self.dead: set[int] = set()
        self.descriptors: dict[int, int] = {}
        """Of the processes, opened at first sight: a kill must not come late, nor hit another
        process that has got the same id since."""

    def ranks(self) -> dict[int, Shown]:
        """What each rank does; of several processes that had the rank the newest counts."""
        read = self._reader.read().values()
        shown = [each for each in read if each.rank >= 0 and each.pid not in self.dead]
        for pid in {each.pid for each in shown} - self.descriptors.keys():
            self._recognize(pid)
        return {each.rank: each for each in sorted(shown, key=lambda each: each.time)}

    def _recognize(self, pid: int) -> None:
        with suppress(OSError):
            self.descriptors[pid] = os.pidfd_open(pid)
            if self._marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                return
        self.dead.add(pid)  # it has ended meanwhile

    def last(self, pid: int) -> Shown:
        """What one process showed last."""
        return self._reader.read()[pid]

    def least(self) -> int:
        """The version that all ranks hold now."""
        return least_version(self.ranks())

    def looks(self, period: float) -> Iterator[dict[int, Shown]]:
        """Looks again and again."""
        deadline, furthest = time.monotonic() + PATIENCE, -1
        while True:
            ranks = self.ranks()
            yield ranks
            furthest, before = max(furthest, *(r.step for r in ranks.values()), -1), furthest
            if furthest > before:
                deadline = time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise HangError(f"no step within {PATIENCE:.0f} s; the ranks: {ranks}")
            time.sleep(period)

    def until(self, condition: Callable[[], bool], period: float) -> None:
        """Looks until a condition holds."""
        for _ in self.looks(period):
            if condition():
                return

    def close(self) -> None:
        """Lets go of everything."""
        self._reader.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)
