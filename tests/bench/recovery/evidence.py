"""What a disturbed run has left: where it went on after each kill, and its weights."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

from killer import WORLD_SIZE, Hit

Hashes: TypeAlias = Mapping[tuple[int, int], frozenset[str]]
"""By version and rank: what processes noted; of an undisturbed run one each."""


@dataclass(frozen=True)
class Recovered:
    """A kill and how the job came over it."""

    hit: Hit
    seconds: float
    """From the kill until every rank had completed the next step."""
    held_seconds: float
    """From the kill until every rank held what the interrupted step led to: less than `seconds`
    where survivors could complete that step by themselves."""
    lost_steps: int
    """Committed steps that had to be made again."""
    phases: Mapping[str, float]
    identical: bool
    """Whether all weights up to the next kill are those of the undisturbed run."""


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of all files in a folder."""
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            yield json.loads(line)


def read_hashes(folder: Path) -> Hashes:
    """The weights of a run."""
    found: dict[tuple[int, int], set[str]] = {}
    for line in read_lines(folder):
        found.setdefault((line["version"], line["rank"]), set()).add(line["hash"])
    return {place: frozenset(hashes) for place, hashes in found.items()}


def differing(hashes: Hashes, reference: Hashes, steps: int) -> list[int]:
    """The versions whose weights are not proven to be those of the undisturbed run.

    A rank that dies between committing a version and noting it leaves a gap, which its replacement
    does not fill: of one rank that is no fault.
    """
    wrong = []
    for version in range(1, steps + 1):
        noted = {
            rank: hashes[version, rank] for rank in range(WORLD_SIZE) if (version, rank) in hashes
        }
        right = all(found == reference.get((version, rank)) for rank, found in noted.items())
        if not right or len(noted) < WORLD_SIZE - 1:
            wrong.append(version)
    return wrong


def recoveries(
    hits: Sequence[Hit], history: Sequence[Mapping[str, Any]], wrong: Sequence[int]
) -> list[Recovered]:
    """The kills of one run with what the history tells of each.

    Args:
        hits: in the order in which they were made.
        history: the records of the run.
        wrong: versions that differ from the undisturbed run.

    Raises:
        ValueError: the job did not come over a kill, or did not say so.
    """
    found = []
    bounds = [*(hit.time for hit in hits), inf]
    # What differs before the first kill counts with that one: nowhere else would it be told.
    first_versions = [0, *(hit.step + 1 for hit in hits[1:]), inf]
    for index, (start, stop) in enumerate(pairwise(bounds)):
        hit = hits[index]
        events = [r for r in history if r["kind"] == "event" and start <= r["time"] < stop]
        resumed = [event["step"] for event in events if event["reason"] == "Resumed"]
        finished = [e["figures"] for e in events if e["reason"] == "RecoveryFinished"]
        # What was committed at last counts: survivors that had passed the gate complete the step.
        target = max(hit.step, resumed[-1] if resumed else -1) + 1
        if not resumed or not finished or target not in hit.reached:
            raise ValueError(f"the job did not come over the kill {hit}: {events}")
        later = first_versions[index + 1]
        phases = {name: at for name, at in finished[-1].items() if not name.endswith("_steps")}
        found.append(
            Recovered(
                hit,
                hit.reached[target] - hit.time,
                hit.reached[hit.step + 1] - hit.time,
                max(0, hit.step - resumed[-1]),
                phases,
                not any(first_versions[index] <= version < later for version in wrong),
            )
        )
    return found


def peer_recoveries(hits: Sequence[Hit], starts: Sequence[Mapping[str, float]]) -> list[Recovered]:
    """The kills of a run of the peer, by what its processes noted when they started.

    Raises:
        ValueError: no full set of processes was started after a kill.
    """
    found = []
    bounds = [*(hit.time for hit in hits), inf]
    for hit, (start, stop) in zip(hits, pairwise(bounds), strict=True):
        fresh = [line for line in starts if start <= line["started"] < stop]
        target = hit.step + 1
        if len(fresh) != WORLD_SIZE or target not in hit.reached:
            raise ValueError(f"torchrun did not come over the kill {hit}: {fresh}")
        moments = [
            start,
            *(max(line[at] for line in fresh) for at in ("started", "imported", "loaded")),
        ]
        names = ("detect and restart", "import", "load", "redo")
        spent = [b - a for a, b in pairwise([*moments, hit.reached[target]])]
        lost = hit.step - int(fresh[0]["step"])
        phases = dict(zip(names, spent, strict=True))
        seconds = hit.reached[target] - start
        found.append(Recovered(hit, seconds, seconds, lost, phases, identical=True))
    return found
