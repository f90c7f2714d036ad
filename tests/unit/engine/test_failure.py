import traceback
from pathlib import Path

import pytest
import torch

import reknit
from reknit.errors import CheckpointMismatchError, ConfigurationError
from reknit.protocol.outcome import ExitClass
from reknit.rank.failure import classify, is_lost_peer, report
from reknit.trainer.errors import CheckpointError, WrongNumbersError
from reknit.trainer.job import total_steps
from reknit.trainer.step import to_device


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("wrong"), ExitClass.PROGRAM_ERROR),
        (SystemExit(3), ExitClass.PROGRAM_ERROR),
        (FloatingPointError("inf"), ExitClass.PROGRAM_ERROR),
        (ConfigurationError("wrong"), ExitClass.CONFIGURATION),
        (CheckpointMismatchError("wrong"), ExitClass.CONFIGURATION),
        (MemoryError(), ExitClass.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), ExitClass.OUT_OF_MEMORY),
        (CheckpointError("disk full"), ExitClass.INFRASTRUCTURE),
        (WrongNumbersError("step 3: nan"), ExitClass.WRONG_NUMBERS),
        (torch.distributed.DistBackendError("NCCL"), ExitClass.INFRASTRUCTURE),
        (
            RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] closed"),
            ExitClass.INFRASTRUCTURE,
        ),
    ],
)
def test_classes(error, expected):
    assert classify(error) is expected


def test_torch_s_own_words_for_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert classify(caught.value) is ExitClass.OUT_OF_MEMORY


def test_only_collectives_lose_peers():
    assert not is_lost_peer(ConnectionResetError("the user's own socket"))
    assert not is_lost_peer(RuntimeError("sizes do not match"))


def raise_through(filenames: list[str], error: BaseException) -> BaseException:
    """The error as if it had gone through functions in the files, outermost first."""
    code = "def call(rest, error):\n    if rest:\n        rest[0](rest[1:], error)\n    raise error"
    functions = []
    for filename in filenames:
        namespace: dict[str, object] = {}
        exec(compile(code, filename, "exec"), namespace)
        functions.append(namespace["call"])
    try:
        functions[0](functions[1:], error)  # type: ignore[operator]
    except BaseException as raised:
        raised.__traceback__ = raised.__traceback__ and raised.__traceback__.tb_next
        return raised
    raise AssertionError


OURS = str(Path(reknit.__file__).parent / "trainer" / "step.py")
TORCH = str(Path(torch.__file__).parent / "nn" / "modules" / "module.py")


@pytest.mark.parametrize(
    ("through", "shown"),
    [
        ([OURS, "user.py"], ["user.py"]),
        ([OURS, "user.py", OURS, TORCH, OURS, "loss.py"], ["user.py", "loss.py"]),
        ([OURS, "user.py", TORCH, "model.py"], ["user.py", TORCH, "model.py"]),
        ([OURS, "user.py", OURS, TORCH], ["user.py"]),
        (["<frozen importlib._bootstrap>", "user.py"], ["user.py"]),
    ],
)
def test_plumbing_is_left_out(through, shown):
    told = report(raise_through(through, ValueError("a\nb")), step=4)
    files = [line.split('"')[1] for line in told.traceback.splitlines() if "File" in line]
    assert files == shown
    assert told.exception == "ValueError: a b"
    assert told.step == 4


def test_causes_keep_the_user_s_frames():
    inner = raise_through([OURS, "inner.py"], KeyError("inner"))
    outer = ValueError("outer")
    outer.__cause__ = inner
    text = report(raise_through(["outer.py", OURS], outer), step=None).traceback
    assert text.index("inner.py") < text.index("direct cause") < text.index("outer.py")
    assert "step.py" not in text


def test_the_traceback_is_python_s():
    error = raise_through(["user.py"], ValueError("x"))
    expected = "".join(traceback.format_exception(error))
    assert report(error, step=None).traceback == expected


@pytest.mark.parametrize(
    ("arguments", "expected"), [((100, 7, None), 7), ((100, None, 3), 37), ((8, None, 1), 1)]
)
def test_the_number_of_steps(arguments, expected):
    assert total_steps(*arguments, global_batch=8) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((100, None, None), "exactly one of steps and epochs"),
        ((100, 1, 1), "exactly one of steps and epochs"),
        ((0, 1, None), "no samples"),
        ((100, 0, None), "steps is 0; raise it"),
        ((7, None, 1), "lower spec.batch.global or raise epochs"),
    ],
)
def test_runs_without_steps_are_refused(arguments, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        total_steps(*arguments, global_batch=8)


def test_micro_batches_move_with_their_structure():
    pair = torch.return_types.max((torch.ones(1), torch.ones(1)))
    data = {"a": [torch.ones(2), ("text", 5)], "b": pair}
    moved = to_device(data, torch.device("meta"))
    assert moved["a"][0].device.type == "meta"
    assert moved["a"][1] == ("text", 5)
    assert type(moved["a"]) is list
    assert to_device(data, torch.device("cpu")) is data
