"""A rank of the tests that stays: does one task after another, each in a new process group.

Run with the global `connection`, which brings (function of one of the modules of cases, rank,
number of ranks, port, listening socket or None, arguments) and takes (result, None) or (None,
traceback).
"""

import sys
import traceback
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import engine_cases
import mesh_cases
import quiet_cases
import shadow_cases

torch.set_num_threads(1)
warnings.simplefilter("error")
while (task := connection.recv()) is not None:  # type: ignore[name-defined]  # noqa: F821
    name, rank, num_ranks, port, listener, arguments = task
    try:
        degrees = getattr(arguments[0], "degrees", None) if arguments else None
        group = engine_cases.join(rank, num_ranks, port, listener, degrees)
        modules = (mesh_cases, shadow_cases, quiet_cases, engine_cases)
        function = next(getattr(each, name) for each in modules if hasattr(each, name))
        result = function(group, *arguments)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except Exception:
        connection.send((None, traceback.format_exc()))  # type: ignore[name-defined]  # noqa: F821
    else:
        connection.send((result, None))  # type: ignore[name-defined]  # noqa: F821
