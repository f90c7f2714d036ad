"""What the user's program prints, from the logs of its pods."""

from collections.abc import Iterator
from pathlib import Path

from reknit_operator.constants import Role


class OutputTail:
    """Reads what has been added to the logs of workers and spares, without their agents' lines."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._offsets: dict[Path, int] = {
            # A continued run shows what is new.
            file: file.stat().st_size
            for file in self._files()
        }

    def fresh(self) -> Iterator[tuple[str, str]]:
        """(pod, line) for every complete line since the last call."""
        for file in self._files():
            offset = self._offsets.get(file, 0)
            with file.open("rb") as log:
                log.seek(offset)
                added = log.read()
            complete = added[: added.rfind(b"\n") + 1]
            self._offsets[file] = offset + len(complete)
            for line in complete.decode(errors="replace").splitlines():
                if line.strip() and not line.startswith("[agent "):
                    yield file.stem, line

    def _files(self) -> list[Path]:
        names = (f"*-{role}-*.log" for role in (Role.WORKER, Role.SPARE))
        return sorted(file for name in names for file in self._logs.glob(name))
