"""The two displays of a running job."""

from collections.abc import Sequence
from time import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live

from reknit.protocol.status import CoordinatorStatus, Record
from reknit_operator.cli.display.lines import Lines
from reknit_operator.cli.display.live import Screen
from reknit_operator.cli.display.output import OutputTail
from reknit_operator.cli.display.view import View, fold, with_status

KEPT_OUTPUT: Final = 6


class PlainDisplay:
    """Prints lines."""

    wants_status: Final = False
    """Lines tell of records only."""

    def __init__(self, console: Console, name: str, output: OutputTail | None = None) -> None:
        self._console = console
        self._lines = Lines(name)
        self._output = output

    @property
    def view(self) -> View:
        """After everything shown so far."""
        return self._lines.view

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def recall(self, records: Sequence[Record]) -> None:
        """Takes what happened before, without a word."""
        self._lines.recall(records)

    def show(self, records: Sequence[Record], status: CoordinatorStatus | None) -> None:
        """Prints what is new."""
        del status
        for record in records:
            for line in self._lines.feed(record):
                self.say(line)
        for pod, line in self._output.fresh() if self._output else ():
            self.say(f"{pod} | {line}")

    def say(self, sentence: str) -> None:
        """Prints a line."""
        self._console.out(sentence, highlight=False)


class LiveDisplay:
    """Draws on a terminal, in place."""

    wants_status: Final = True
    """For the phase of each rank."""

    def __init__(self, console: Console, name: str, output: OutputTail | None = None) -> None:
        self.view = View(name)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._output = output
        self._printed: list[str] = []
        self._hint = ""

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        for line in self._printed:
            self._live.console.out(line, highlight=False)

    def recall(self, records: Sequence[Record]) -> None:
        """Takes what happened before."""
        self.view = fold(self.view, records)

    def show(self, records: Sequence[Record], status: CoordinatorStatus | None) -> None:
        """Draws anew."""
        self.view = with_status(fold(self.view, records), status)
        for pod, line in self._output.fresh() if self._output else ():
            self._printed.append(f"{pod} | {line}")
        self._draw()

    def say(self, sentence: str) -> None:
        """Shows a hint below everything."""
        self._hint = sentence
        self._draw()

    def _draw(self) -> None:
        screen = Screen(self.view, self._hint, self._printed[-KEPT_OUTPUT:], now=time())
        self._live.update(screen, refresh=True)


def display_for(
    console: Console, name: str, output: OutputTail | None = None
) -> PlainDisplay | LiveDisplay:
    """The display that suits the console."""
    kind = LiveDisplay if console.is_terminal else PlainDisplay
    return kind(console, name, output)
