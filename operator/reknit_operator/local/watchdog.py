"""Ends what a session leaves behind when its host dies: `watchdog.py SESSION FOLDER`.

It holds the reading end of a pipe whose writing end only the host has. The end of the pipe means
that the host is gone, however it went. Run without site packages, so it is small and starts fast.
"""

import os
import shutil
import signal
import sys
from pathlib import Path


def main() -> int:
    """Waits for the end of standard input, then kills the session's processes and its folder."""
    # The terminal's signals are meant for the host; the watchdog outlives it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Imported by its place, for the package around it would need site packages; at the end of the
    # path, for modules beside it are called like some of the standard library's.
    sys.path.append(str(Path(__file__).parent))
    from sweep import ENV_SESSION, sweep  # type: ignore[import-not-found]

    while os.read(0, 4096):
        pass
    sweep({ENV_SESSION: sys.argv[1]})
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
