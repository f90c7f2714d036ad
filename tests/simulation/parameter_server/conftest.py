"""A range's copies and its workers in virtual time: real state machines, the rest made up.

Messages take a random time, overtake each other and get lost. The coordinator only hears what
servers tell it, and knows of a death by silence or a little after it. What really happened is known
to the simulation, and every answer and every update is compared with it.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from virtual.world import World


@pytest.fixture(scope="session")
def world() -> type[World]:
    """Makes a job: `world(seed, ...)`."""
    return World
