"""Ranks that live and do not get on."""

from datetime import timedelta

import pytest

from reknit.coordinator.hangs import laggards
from reknit.coordinator.state import Member
from reknit.protocol.agents import End
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import MEMORY, Phase, Resumed


def member(rank, step, place, **more) -> Member:
    return Member(rank=rank, agent=f"w{rank}", slot=0, step=step, place=place, **more)


@pytest.mark.parametrize(
    ("positions", "behind"),
    [
        ([(4, 7), (4, 7), (4, 7)], [0, 1, 2]),
        ([(4, 7), (4, 6), (4, 7)], [1]),
        ([(4, 7), (3, 9), (4, 7)], [1]),
        ([(4, 6), (4, 7), (4, 6)], [0, 2]),
        ([], []),
    ],
)
def test_whoever_has_come_least_far_is_waited_for(positions, behind) -> None:
    members = [member(rank, *position) for rank, position in enumerate(positions)]
    assert [m.rank for m in laggards(members)] == behind


def test_nobody_waits_for_a_rank_that_has_finished() -> None:
    assert [m.rank for m in laggards([member(0, 1, 1, finished=True), member(1, 9, 9)])] == [1]


class Watched:
    """A job whose ranks are seen at these places."""

    def __init__(self, job, seconds=0.1) -> None:
        self.job = job
        self.step = 0
        self.places = [0] * job.policy.num_workers
        self.phases = [Phase.STEP] * job.policy.num_workers
        self.finished = [False] * job.policy.num_workers
        job.begin()
        self.make_step(seconds)

    def make_step(self, seconds=0.1):
        self.step += 1
        self.job.step(self.step, seconds={"total": seconds})

    def wait(self, seconds, *silent):
        """Time passes in which ranks beat and do not move."""
        sent = []
        for _ in range(round(seconds / 0.2)):
            self.job.now += 0.2
            for rank, place in enumerate(self.places):
                if rank in silent:
                    continue
                slot = self.job.slot(
                    rank,
                    step=self.step,
                    place=place,
                    phase=self.phases[rank],
                    finished=self.finished[rank],
                )
                sent += self.job.beat(rank, slot)
            sent += self.job.feed_tick()
            if sent:
                return sent
        return sent


@pytest.fixture
def watched(drive):
    """Makes a job of three ranks that has made a step, with hangs after 5 s."""

    def make(seconds=0.1, **rules):
        job = drive(num_workers=3, hang_after=timedelta(seconds=5), **rules)
        return Watched(job, seconds)

    return make


def failed(sent):
    return [(message.keep, message.failed) for message in sent if isinstance(message, End)]


def test_the_rank_that_others_wait_for_is_killed_and_they_live_on(watched) -> None:
    ranks = watched()
    ranks.places = [3, 2, 3]
    assert ranks.wait(5.0) == []
    assert failed(ranks.wait(0.6)) == [(True, ()), (True, (1,)), (True, ())]
    job = ranks.job
    [note] = [record for record in job.records if getattr(record, "reason", "") == "Hung"]
    assert note.message == "Rank 1 on w1 has hung for 5.0 s in step 2: the others wait for it."
    assert note.rank == 1
    assert job.state.failures_by_class == {ExitClass.INFRASTRUCTURE: 1}
    assert job.state.failures == 1
    assert job.state.recoveries.current.seconds["detect"] == pytest.approx(5.0, abs=0.3)


def test_all_that_are_behind_are_named(watched) -> None:
    ranks = watched()
    ranks.places = [2, 3, 2]
    assert failed(ranks.wait(6.0)) == [(True, (0,)), (True, ()), (True, (2,))]
    assert ranks.job.state.failures == 1


def test_a_rank_that_moves_holds_off_the_verdict(watched) -> None:
    ranks = watched()
    ranks.places = [30, 0, 30]
    for place in range(20):
        ranks.places[1] = place
        assert ranks.wait(4.0) == []


def test_long_steps_have_a_longer_limit(watched) -> None:
    ranks = watched(seconds=2.0)
    ranks.places = [3, 2, 3]
    assert ranks.wait(19.8) == []
    assert failed(ranks.wait(1.0))


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.STEP])
def test_declared_phases_may_last_long(watched, phase) -> None:
    ranks = watched(phase_limit=timedelta(seconds=60))
    ranks.places, ranks.phases = [3, 2, 3], [Phase.STEP, phase, Phase.STEP]
    assert ranks.wait(59.0) == []
    assert failed(ranks.wait(2.0)) == [(True, ()), (True, (1,)), (True, ())]
    assert f"in phase {phase} after step 1" in ranks.job.records[-1].message


def test_a_rank_hangs_in_its_step_though_others_are_in_an_evaluation_already(watched) -> None:
    ranks = watched()
    ranks.places, ranks.phases = [3, 2, 3], [Phase.EVALUATION, Phase.STEP, Phase.EVALUATION]
    assert failed(ranks.wait(6.0)) == [(True, ()), (True, (1,)), (True, ())]


def test_the_first_step_of_a_generation_may_last_long(watched) -> None:
    ranks = watched()
    job = ranks.job
    job.exit(1, signal=9)
    job.stop()
    job.say(0, Resumed(generation=job.generation, step=1, source=MEMORY))
    ranks.places = [3, 2, 3]
    assert ranks.wait(60.0) == []


def test_when_all_have_come_equally_far_nobody_is_to_blame(watched) -> None:
    ranks = watched()
    assert failed(ranks.wait(6.0)) == [(True, ())] * 3
    job = ranks.job
    [note] = [record for record in job.records if getattr(record, "reason", "") == "Hung"]
    assert note.message == "No rank has come further for 5.0 s in step 2."
    assert note.rank is None
    assert job.state.failures == 0
    assert job.state.failures_by_class == {ExitClass.INFRASTRUCTURE: 1}


def test_a_second_halt_at_the_same_step_is_a_failure_and_progress_forgives(watched) -> None:
    ranks = watched(phase_limit=timedelta(seconds=6))
    job, failures = ranks.job, []
    for steps in (0, 0, 0, 1, 0):
        for _ in range(steps):
            ranks.make_step()
        assert failed(ranks.wait(7.0))
        failures.append(job.state.failures)
        job.stop()
        job.say(0, Resumed(generation=job.generation, step=ranks.step, source=MEMORY))
    assert failures == [0, 1, 2, 0, 1]


def test_a_halt_without_end_ends_the_job(watched) -> None:
    ranks = watched(phase_limit=timedelta(seconds=6), max_process_failures=1)
    for _ in range(3):
        assert ranks.wait(7.0)
        if ranks.job.state.conclusion is None:
            ranks.job.stop()
    assert ranks.job.state.conclusion.exit_class is ExitClass.INFRASTRUCTURE
    assert "no rank has come further" in ranks.job.state.conclusion.message


def test_nobody_is_blamed_while_an_agent_is_not_heard(watched) -> None:
    ranks = watched(dead_after=timedelta(seconds=30))
    ranks.places = [3, 2, 3]
    assert ranks.wait(4.0) == []
    assert ranks.wait(8.0, 2) == []
    ranks.job.disconnect(2)
    assert ranks.wait(8.0, 2) == []


def test_silence_of_the_coordinator_is_no_hang(watched) -> None:
    ranks = watched()
    ranks.places = [3, 2, 3]
    assert ranks.wait(2.0) == []
    ranks.job.now += 60.0
    assert ranks.wait(2.0) == []
    assert failed(ranks.wait(2.0))


def test_a_rank_that_has_finished_is_not_waited_for_and_the_others_are(watched) -> None:
    ranks = watched(phase_limit=timedelta(seconds=8))
    ranks.places, ranks.finished = [3, 2, 1], [False, False, True]
    ranks.phases = [Phase.CLOSING] * 3
    assert failed(ranks.wait(9.0)) == [(True, ()), (True, (1,)), (True, ())]


def test_a_command_says_nothing_and_never_hangs(drive) -> None:
    job = drive(is_command=True)
    job.begin()
    assert job.wait(700.0, 0, 1) == []
