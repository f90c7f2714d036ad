import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reknit.strategies.scaling import LossScale, ScalePolicy


def run(overflows: list[bool], policy: ScalePolicy) -> list[float]:
    scale, values = LossScale(policy.initial), []
    for overflow in overflows:
        values.append(scale.value)
        scale = scale.after(overflow, policy)
    return values


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_it_moves_like_torch_s(overflows, interval):
    policy = ScalePolicy(initial=2.0**16, growth_interval=interval, minimum=2.0**-40)
    scaler = torch.amp.GradScaler("cpu", init_scale=policy.initial, growth_interval=interval)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    expected = []
    for overflow in overflows:
        expected.append(scaler.get_scale())
        scaler.scale(parameter.sum() * (torch.inf if overflow else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert run(overflows, policy) == expected


def test_hysteresis_forgives_overflows_in_a_row():
    policy = ScalePolicy(initial=8.0, hysteresis=2)
    assert run([True, False, True, True, True], policy) == [8.0, 8.0, 8.0, 8.0, 4.0]


def test_a_gradient_that_always_overflows_is_an_error():
    policy = ScalePolicy(initial=2.0, minimum=1.0)
    with pytest.raises(FloatingPointError, match="down to 1"):
        run([True, True], policy)


def test_a_constant_scale_stays():
    policy = ScalePolicy.from_deepspeed({"loss_scale": 128.0})
    assert run([False] * 5, policy) == [128.0] * 5
    assert run([True, False, True], policy) == [128.0] * 3


def test_deepspeed_s_settings():
    assert ScalePolicy.from_deepspeed({}) == ScalePolicy()
    policy = ScalePolicy.from_deepspeed(
        {
            "loss_scale": 0.0,
            "initial_scale_power": 4.0,
            "loss_scale_window": 10.0,
            "min_loss_scale": 0.5,
            "hysteresis": 2.0,
        }
    )
    assert policy == ScalePolicy(initial=16.0, growth_interval=10, minimum=0.5, hysteresis=2)


@given(st.floats(1, 2**30), st.integers(0, 10**6), st.integers(0, 5))
def test_json_and_back(value, good_steps, overflows):
    scale = LossScale(value, good_steps, overflows)
    assert LossScale.from_json(scale.to_json()) == scale


@pytest.mark.parametrize("value", [None, 5, [1.0], ["1", 0, 0], {}])
def test_other_json_is_refused(value):
    with pytest.raises(ValueError, match="no loss scale"):
        LossScale.from_json(value)
