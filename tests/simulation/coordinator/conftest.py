"""A job in virtual time: real state machines of coordinator and agents, everything else made up.

Networks deliver in order on each connection and in any order between connections. Processes,
collectives, checkpoints, the operator's replacements and all faults are simulated; what really
happened is therefore known, and every decision is compared with it.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simulated.world import World
from simulated.wrongs import Fault, Program


@pytest.fixture(scope="session")
def world() -> type[World]:
    """Makes a job: `world(seed, faults=...)`."""
    return World


@pytest.fixture(scope="session")
def fault() -> type[Fault]:
    return Fault


@pytest.fixture(scope="session")
def program() -> type[Program]:
    return Program
