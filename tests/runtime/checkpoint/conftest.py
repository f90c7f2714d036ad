import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Victims:
    """Hands out processes that write checkpoints; see victim.py."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path, counter: int, *, keep: int, **request) -> int:
        """Starts one; its process id."""
        request = {"folder": str(folder), "counter": counter, "keep": keep, **request}
        self.server.stdin.write(json.dumps({"versions": 20} | request) + "\n")
        self.server.stdin.flush()
        word, pid = self.server.stdout.readline().split()
        assert word == "pid"
        return int(pid)

    def lines(self) -> Iterator[tuple[str, int]]:
        """What it says, up to and with its end."""
        for line in self.server.stdout:
            word, number = line.split()
            yield word, int(number)
            if word == "end":
                return

    def close(self) -> None:
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait(20)


@pytest.fixture(scope="module")
def victims():
    victims = Victims()
    yield victims
    victims.close()
