"""Jobs in which ranks die, and what has to come of them."""

from multiprocessing.connection import wait
from pathlib import Path

from ranks import Rank, Ranks
from safetensors.torch import load_file

from reknit.protocol.ranks import MEMORY, Failed, Finished, Resumed, StepDone
from reknit.protocol.settings import JobSettings

STEPS = 12


def losses(ranks: list[Rank]) -> dict[int, float]:
    """Loss of each step, as the ranks told it."""
    told = [done for rank in ranks for done in rank.all(StepDone)]
    found: dict[int, set[float]] = {}
    for done in told:
        found.setdefault(done.step, set()).add(done.metrics["loss"])
    assert all(len(values) == 1 for values in found.values()), found
    return {step: values.pop() for step, values in sorted(found.items())}


def losses_of_whole(ranks: Ranks, settings: JobSettings) -> dict[int, float]:
    """What the undisturbed job comes to with four ranks."""
    return losses(run(ranks, settings, []))


def finish(group: list[Rank]) -> None:
    assert [rank.until(Finished).left for rank in group] == [False] * len(group)
    assert [rank.end() for rank in group] == [0] * len(group)


def run(ranks: Ranks, settings: JobSettings, deaths: list[int]) -> list[Rank]:
    """All processes of a job in which these ranks die one after the other."""
    group = ranks.start(settings, 4)
    everyone = list(group)
    for counter, victim in enumerate(deaths, start=1):
        spare = ranks.park(settings)
        first_to_die = wait([rank.process.sentinel for rank in group])[0]
        assert first_to_die == group[victim].process.sentinel, [
            failed.error.traceback
            for rank in group
            if rank.process.sentinel == first_to_die
            for failed in rank.rest(Failed)
        ]
        group[victim].until_death()
        ranks.abort([rank for rank in group if rank is not group[victim]], counter)
        group[victim] = spare
        everyone.append(spare)
        ranks.assign(group, counter + 1)
    finish(group)
    return everyone


def check_deaths(ranks: Ranks, job, tmp_path, deaths, **changes: object) -> None:
    """Of the ranks, each with the steps committed before and the moment."""
    whole = run(ranks, job("whole", **changes), [])
    broken = run(ranks, job("broken", *deaths, **changes), [victim for victim, _, _ in deaths])
    resumed = [message for rank in broken for message in rank.all(Resumed)]
    assert [message.source for message in resumed][1:] == [MEMORY] * len(deaths)
    assert losses(broken) == losses(whole)
    assert_same_weights(tmp_path)


def assert_same_weights(tmp_path: Path) -> None:
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert weights[name].equal(tensor), name
