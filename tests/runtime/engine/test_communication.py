"""Training that communicates less, against the same computed by one plain process."""

from dataclasses import replace

import pytest
import torch
from engine_cases import Case, assemble
from quiet_cases import (
    simulated_clients,
    simulated_compression,
    simulated_power_sgd,
    simulated_rounds,
)

from reknit.protocol.settings import (
    CommunicationSettings,
    Compression,
    RoundSettings,
    WorkerState,
)

FIRST_STEPS = 5


def relative_errors(found: list[float], expected: list[float]) -> list[float]:
    return [abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True)]


def rounds(local_steps: int, **changes: object) -> CommunicationSettings:
    return CommunicationSettings(rounds=RoundSettings(local_steps=local_steps, **changes))


def diloco(local_steps: int, **changes: object) -> CommunicationSettings:
    return rounds(local_steps, outer_learning_rate=0.7, outer_momentum=0.9, **changes)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(
    ("compression", "dtype"),
    [(Compression.FP16, torch.float16), (Compression.BF16, torch.bfloat16)],
)
def test_a_compressed_gradient_is_the_sum_of_rounded_ones(run_ranks, compression, dtype):
    case = Case(
        steps=8, accumulation=2, communication=CommunicationSettings(compression=compression)
    )
    runs = run_ranks("train", 2, case)
    assert runs[0].losses == runs[1].losses
    errors = relative_errors(runs[0].losses, simulated_compression(case, dtype))
    assert max(errors) <= 1e-5
    plain = run_ranks("train", 2, replace(case, communication=CommunicationSettings()))
    assert plain[0].losses[0] == runs[0].losses[0]
    assert plain[0].losses[-1] != runs[0].losses[-1], "nothing was rounded"


POWER_SGD = CommunicationSettings(compression=Compression.POWER_SGD, power_sgd_rank=2)


def test_power_sgd_makes_up_for_what_it_leaves_out(run_ranks):
    case = Case(optimizer="SGD", learning_rate=0.02, steps=12, communication=POWER_SGD)
    runs = run_ranks("train", 2, case)
    assert runs[0].losses == runs[1].losses
    errors = relative_errors(runs[0].losses, simulated_power_sgd(case))
    assert max(errors[:FIRST_STEPS]) <= 1e-6
    assert max(errors) <= 1e-4
    assemble([run.state for run in runs])


def test_a_parameter_may_go_unused_under_power_sgd(run_ranks):
    """It is left alone, as under DDP; rank 5 of 9 leaves nothing to approximate."""
    plain = Case(model="sometimes", steps=8)
    found = run_ranks("train", 2, replace(plain, communication=POWER_SGD))[0]
    assert found.losses[:1] == run_ranks("train", 2, plain)[0].losses[:1]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_rounds_of_one_step_of_sgd_are_steps(run_ranks, num_ranks):
    """Whose momentum is linear: the mean of the ranks' is that of the mean gradient."""
    case = Case(num_ranks=num_ranks, optimizer="SGD", learning_rate=0.05, steps=8, accumulation=2)
    expected = run_ranks("train", num_ranks, case)[0]
    found = run_ranks("train", num_ranks, replace(case, communication=rounds(1)))[0]
    assert max(relative_errors(found.losses, expected.losses)) <= 1e-6


@pytest.mark.parametrize(
    ("communication", "clip"),
    [(diloco(4), None), (diloco(2), 0.5), (rounds(4), None)],
    ids=["DiLoCo", "DiLoCo, two passes a step, clipped", "local SGD"],
)
def test_rounds_are_those_of_their_paper(run_ranks, communication, clip):
    case = Case(accumulation=4, steps=12, clip=clip, communication=communication)
    runs = run_ranks("train", 2, case)
    assert runs[0].losses == runs[1].losses
    errors = relative_errors(runs[0].losses, simulated_rounds(case))
    assert max(errors[:FIRST_STEPS]) <= 1e-6
    assert max(errors) <= 1e-4
    assert runs[0].losses[-1] < 0.95 * runs[0].losses[0], "nothing has been learnt"
    assemble([run.state for run in runs])


@pytest.mark.parametrize(
    ("model", "communication"),
    [
        ("tied", diloco(2)),
        ("groups", diloco(2, worker_state=WorkerState.FRESH)),
        ("tied", POWER_SGD),
    ],
    ids=["DiLoCo", "DiLoCo with fresh optimizers", "PowerSGD"],
)
def test_a_run_goes_on_from_a_state_bit_for_bit(run_ranks, model, communication):
    case = Case(model=model, accumulation=4, steps=7, communication=communication)
    whole = run_ranks("train", 2, case)
    half = run_ranks("train", 2, replace(case, steps=3))
    start = assemble([run.state for run in half])
    resumed = run_ranks("train", 2, case, start)
    assert resumed[0].losses == whole[0].losses[3:]
    expected, found = (assemble([run.state for run in runs]) for runs in (whole, resumed))
    assert found.scalars == expected.scalars
    assert found.specs == expected.specs
    assert all(torch.equal(found.tensors[name], t) for name, t in expected.tensors.items())


def test_power_sgd_is_taken_up_and_left_in_the_midst_of_a_job(run_ranks):
    plain = Case(steps=5)
    factored = replace(plain, communication=POWER_SGD)
    for before, after in ((plain, factored), (factored, plain)):
        runs = run_ranks("train", 2, replace(before, steps=3))
        start = assemble([run.state for run in runs])
        resumed = run_ranks("train", 2, after, start)[0]
        # The loss of the first step comes before any gradient.
        whole = run_ranks("train", 2, before)[0]
        assert resumed.losses[0] == whole.losses[3]
        assert resumed.losses[1] != whole.losses[4]


def test_federated_averaging_weighs_clients_by_their_samples(run_ranks):
    """Seven clients of different sizes on two ranks, four of them in a round."""
    owners = [min(6, (sample * sample) // 1200) for sample in range(96)]
    settings = rounds(3, worker_state=WorkerState.FRESH, clients_per_round=4)
    case = Case(global_batch=48, micro=4, steps=10, communication=settings)
    runs = run_ranks("train_clients", 2, case, owners)
    assert [loss for loss, _ in runs[0]] == [loss for loss, _ in runs[1]]
    for rank, run in enumerate(runs):
        assert all(owners[sample] % 2 == rank for _, samples in run for sample in samples)
    expected = []
    for step in range(case.steps):
        clients = {}
        for run in runs:
            samples = run[step][1]
            for first in range(0, len(samples), 12):
                micro_batches = [samples[at : at + 4] for at in range(first, first + 12, 4)]
                owner = owners[samples[first]]
                assert {owners[row] for rows in micro_batches for row in rows} == {owner}
                clients[owner] = [[owners.count(owner)], *micro_batches]
        assert len(clients) == 4
        expected.append(clients)
    found = [loss for loss, _ in runs[0]]
    errors = relative_errors(found, simulated_clients(case, expected))
    assert max(errors[:FIRST_STEPS]) <= 1e-6
    assert max(errors) <= 1e-4
