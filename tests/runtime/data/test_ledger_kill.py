"""A rank that is killed while it writes its ledger leaves whole records."""

import os
import signal
import subprocess
import sys

from reknit.data.ledger import committed

RANK = """
import sys
from reknit.data.ledger import Ledger
from reknit.protocol.base import Generation

ledger = Ledger(sys.argv[1], Generation(incarnation=1, counter=1), rank=0)
version = 0
while True:
    version += 1
    ledger.record(version, range(version * 100, version * 100 + 100))
    print(version, flush=True)
"""


def test_every_acknowledged_record_survives(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, tmp_path], stdout=subprocess.PIPE, text=True
    )
    while int(process.stdout.readline()) < 200:
        pass
    os.kill(process.pid, signal.SIGKILL)
    # What it had said by then and nobody has read yet.
    acknowledged = int(["200", *process.stdout.read().split("\n")[:-1]][-1])
    process.stdout.close()
    assert process.wait(20) == -signal.SIGKILL
    history = committed(tmp_path)
    # One more may have been written without being acknowledged.
    assert list(history) in [list(range(1, acknowledged + extra)) for extra in (1, 2)]
    assert all(ids == list(range(v * 100, v * 100 + 100)) for v, ids in history.items())
