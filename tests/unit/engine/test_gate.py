import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reknit.trainer.gate import Vote, clip_factor, exchange

NUMBERS = st.floats(-1e300, 1e300)


@given(NUMBERS, NUMBERS, st.integers(0, 1))
def test_a_vote_survives_the_tensor(loss, square, leave):
    vote = Vote(loss=loss, square=square, leave=leave)
    assert Vote.from_tensor(vote.to_tensor(torch.device("cpu"))) == vote


def test_all_ranks_get_the_sum(stub_group):
    group = stub_group(others=[Vote(loss=0.25, square=3, leave=1, durable=2)])
    votes = exchange(Vote(loss=0.5, square=1, durable=1, due=1), group)
    assert votes == Vote(loss=0.75, square=4, leave=1, durable=3, due=1)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_clipping_is_torch_s(scale, largest):
    gradient = torch.linspace(-1, 2, 9, dtype=torch.float64) * scale
    parameter = nn.Parameter(torch.zeros(9, dtype=torch.float64))
    parameter.grad = gradient.clone()
    norm = float(nn.utils.clip_grad_norm_([parameter], largest))
    torch.testing.assert_close(gradient * clip_factor(norm, largest), parameter.grad)


def test_without_a_limit_nothing_changes():
    assert clip_factor(1e9, None) == 1.0
