"""The warm process that a dry run and pods are forked from; see `reknit.agent.nursery`."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from reknit.protocol.settings import ENV_NURSERY, ENV_ROLE
from reknit_operator.local.sweep import ENV_SESSION

ROLE: Final = "nursery"
_SHIM: Final = Path(__file__).with_name("shim.py")


class Nursery:
    """To be used as a context; ends the process at its end, or with the thread that started it.

    Args:
        lent: the socket of one that somebody else has started and will end. It has imported the
            user's modules as they were then.
    """

    def __init__(self, lent: Path | None = None) -> None:
        self.session_id = uuid.uuid4().hex
        """Of the session that the process belongs to."""
        self._lent = lent
        self._folder = Path(tempfile.mkdtemp(prefix="reknit-"))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The one that `REKNIT_NURSERY` names there; else one of its own."""
        lent = environment.get(ENV_NURSERY)
        return cls(Path(lent) if lent else None)

    @property
    def socket(self) -> Path:
        """Where processes are asked for."""
        return self._lent or self._folder / "nursery"

    @property
    def log(self) -> Path:
        """What the process, and thus the user's module while it was imported, has written."""
        return self._folder / "nursery.log"

    def start(self, environment: Mapping[str, str]) -> None:
        """Starts the process, which is asked for others from now on and answers once it is warm.

        Args:
            environment: that of a pod's ranks, as far as imports depend on it.
        """
        if self._lent is not None:
            return
        shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
        program = [sys.executable, "-P", "-m", "reknit.agent.nursery"]
        marks = {ENV_SESSION: self.session_id, ENV_ROLE: ROLE}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*shim, *program, "--socket", str(self.socket)],
                env={**environment, **marks},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_up(self) -> bool:
        """Whether it listens; waits until it does, or has ended."""
        if self._lent is not None:
            return self._lent.exists()
        assert self._process is not None, "the nursery has not been started"
        while not self.socket.exists():
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            return False
        return True

    def keep_log(self, folder: Path) -> None:
        """Leaves a copy of the log there if anything was written."""
        if self.log.exists() and self.log.stat().st_size and folder.is_dir():
            shutil.copy(self.log, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
