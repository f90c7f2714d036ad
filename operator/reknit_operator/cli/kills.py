"""Faults on demand: `--kill RANK@STEP`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from reknit_operator.cli.refusal import Refusal

_FORM: Final = re.compile(r"(\d+)@(\d+)")


@dataclass(frozen=True, slots=True)
class Kill:
    """Ends the process of a rank once a step has been committed."""

    rank: int
    step: int

    def __str__(self) -> str:
        return f"{self.rank}@{self.step}"


def parse(texts: Sequence[str], world_size: int) -> tuple[Kill, ...]:
    """The kills, in the order of their steps.

    Raises:
        Refusal: one has another form, or there is no such rank.
    """
    kills = []
    for text in texts:
        match = _FORM.fullmatch(text)
        if match is None:
            raise Refusal([f"--kill: must be RANK@STEP, like 2@60, not {text!r}"])
        kill = Kill(int(match[1]), int(match[2]))
        if kill.rank >= world_size:
            raise Refusal(
                [
                    f"--kill: there is no rank {kill.rank}, the last of {world_size} is "
                    f"{world_size - 1}"
                ]
            )
        kills.append(kill)
    return tuple(sorted(kills, key=lambda kill: kill.step))


def split(kills: Sequence[Kill], committed: int) -> tuple[tuple[Kill, ...], tuple[Kill, ...]]:
    """Those whose step has been committed, and the rest."""
    due = tuple(kill for kill in kills if kill.step <= committed)
    return due, tuple(kill for kill in kills if kill.step > committed)
