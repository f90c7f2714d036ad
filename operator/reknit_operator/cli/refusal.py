"""How a command ends that cannot do what it was asked for."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console

EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 2


class Refusal(Exception):  # noqa: N818 - it is the answer, not an accident
    """Bad input: nothing has been started.

    Attributes:
        problems: one sentence each.
        traceback: the user's own, when it was the user's code that failed; it is shown alone.
        output: what the user's program had written when it died; it is shown first. None if it
            lives.
    """

    def __init__(
        self, problems: Sequence[str], traceback: str | None = None, *, output: str | None = None
    ) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
        self.traceback = traceback
        self.output = output

    @property
    def exit_code(self) -> int:
        """2 for bad input, 1 for a failure of the user's code."""
        failed = self.traceback is not None or self.output is not None
        return EXIT_FAILED if failed else EXIT_REFUSED

    def show(self, console: Console) -> None:
        """Prints the sentences, or the traceback and nothing else."""
        if self.traceback is not None:
            console.out(self.traceback.rstrip("\n"), highlight=False)
            return
        if self.output:
            console.out(self.output, highlight=False)
        for problem in self.problems:
            console.print(problem, style="red", highlight=False, markup=False, soft_wrap=True)
