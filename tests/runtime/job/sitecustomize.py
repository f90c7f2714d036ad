"""Runs first in every process of the tests' jobs: one pod may be kept from coming up."""

import os
import signal

if os.environ.get("REKNIT_POD_NAME", "") == os.environ.get("REKNIT_HELD_POD"):
    signal.pause()
