"""Becomes a pod's first process: `shim.py PARENT COMMAND...`, run without site packages.

It asks the kernel to kill the process when the one that started it dies, and then gives its place
to the command. A program of its own does that, because running code between fork and exec is not
safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NOT_FOUND = 127


def main() -> int:
    """Replaces this process; returns only if that fails."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return NOT_FOUND
    if os.getppid() != parent:
        return NOT_FOUND  # it died before the kernel was asked
    try:
        os.execvp(command[0], command)  # noqa: S606 - there is no shell on purpose
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
    return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main())
