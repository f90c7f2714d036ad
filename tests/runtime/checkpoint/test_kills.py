"""SIGKILL at any moment of writing a checkpoint: real processes, real files."""

import os
import random
import signal
import threading
from pathlib import Path

import pytest
import torch

from reknit.checkpoint.reader import Rejected, examine, newest, open_checkpoint
from reknit.state.description import Interval

PHASES = [
    "snapshot",
    "mkdir",
    "create shard",
    "write shard",
    "fsync shard",
    "create entry",
    "write entry",
    "fsync entry",
    "fsync folder",
    "create manifest",
    "write manifest",
    "fsync manifest",
    "remove entry",
    "create marker",
    "write marker",
    "fsync marker",
    "remove marker",
    "remove shard",
    "remove manifest",
    "remove folder",
]
KEEP = 2


def read_newest(folder: Path) -> int:
    """The version a job would resume from, after its contents were compared with it."""
    info = newest(folder)
    if info is None:
        return 0
    with open_checkpoint(info) as source:
        values = source.read("param/w", Interval(0, source.specs["param/w"].num_elements))
        assert torch.equal(values, torch.full_like(values, info.version))
        assert source.scalars == {"version": info.version}
    return info.version


class Story:
    """Generations that follow each other in one folder, each ended by a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.committed = 0
        self.version = 0

    def heard(self, word: str, number: int) -> None:
        if word == "committed":
            self.committed = number

    def check(self) -> None:
        """Nothing that was committed is lost, and nothing half-written is taken."""
        version = read_newest(self.folder)
        known = max(self.committed, self.version)
        # The kill may come between the marker and the message.
        assert known <= version <= known + 1
        self.version = version
        complete = len(list(self.folder.glob("*/COMMITTED")))
        assert min(version, KEEP) <= complete - len(damaged(self.folder)) <= KEEP + 1


def test_fifty_kills_at_chosen_moments(victims, tmp_path):
    random_numbers = random.Random(20)
    phases = PHASES * 2 + random_numbers.sample(PHASES, 10)
    random_numbers.shuffle(phases)
    story = Story(tmp_path / "checkpoints")
    for counter, phase in enumerate(phases, start=1):
        # Each phase has at least two moments, mostly more, in a checkpoint.
        occurrence = random_numbers.randint(1, 12)
        victims.start(
            story.folder, counter, keep=KEEP, phase=phase, occurrence=occurrence, versions=12
        )
        for word, number in victims.lines():
            story.heard(word, number)
        assert (word, number) == ("end", -signal.SIGKILL), (phase, occurrence)
        story.check()
    finish(victims, story, counter=51)


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_times(victims, tmp_path, seed):
    random_numbers = random.Random(seed)
    story = Story(tmp_path / "checkpoints")
    for counter in range(1, 9):
        pid = victims.start(story.folder, counter, keep=KEEP, versions=10_000)
        lines = victims.lines()
        story.heard(*next(lines))
        # A checkpoint takes some 5 to 20 ms here, so this ends anywhere within the next few.
        killer = threading.Timer(
            random_numbers.uniform(0, 0.06), os.kill, args=(pid, signal.SIGKILL)
        )
        killer.start()
        for word, number in lines:
            story.heard(word, number)
        killer.join()
        assert (word, number) == ("end", -signal.SIGKILL)
        story.check()
    finish(victims, story, counter=9)


def finish(victims, story: Story, counter: int) -> None:
    """One more generation, undisturbed, leaves nothing of the others behind."""
    victims.start(story.folder, counter, keep=KEEP, versions=KEEP)
    for word, number in victims.lines():
        story.heard(word, number)
    assert (word, number) == ("end", 0)
    story.check()
    assert sorted(path.name for path in story.folder.iterdir()) == [
        f"step-{version:08d}.g1.{counter}"
        for version in range(story.version - KEEP + 1, story.version + 1)
    ]
    assert damaged(story.folder) == []


def damaged(folder: Path) -> list[Path]:
    """Checkpoints that were committed and cannot be used."""
    committed = [marker.parent for marker in folder.glob("*/COMMITTED")]
    return [path for path in committed if isinstance(examine(path), Rejected)]
