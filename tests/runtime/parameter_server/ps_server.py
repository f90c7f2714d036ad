"""A server process; run with the globals `line`, `name`, `mode`, `initial` and `ledger`.

`line` brings (method of Server, arguments) or ("stop", None), and takes ("port", port),
again and again ("beat", (clock, statuses)), and at last ("end", statuses).
"""

import asyncio
import contextlib
import os
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import ps_task

from reknit.parameter_server.server import Server
from reknit.parameter_server.state import new_range

BEAT = 0.02


async def main(line, name, mode, initial, ledger) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def observe(number, push) -> None:
        text = f"{name} {number} {push.worker} {push.incarnation} {push.clock}\n"
        os.write(file, text.encode())

    server = Server(
        name, token=ps_task.TOKEN, max_frame_bytes=ps_task.MAX_FRAME_BYTES, observe=observe
    )
    kind = ps_task.MODES[mode]
    for number in range(ps_task.NUM_RANGES):
        state = new_range(name, kind, holds_since=1 if number in initial else None)
        tensors = ps_task.make_tensors(number, kind, initial=number in initial)
        server.hold(number, state, tensors)
    line.send(("port", server.start("127.0.0.1")))
    serving = asyncio.create_task(server.run())

    def hear() -> None:
        try:
            while line.poll():
                method, arguments = line.recv()
                if method == "stop":
                    serving.cancel()
                else:
                    getattr(server, method)(*arguments)
        except EOFError:
            serving.cancel()

    async def beat() -> None:
        while True:
            statuses = {number: server.status(number) for number in range(ps_task.NUM_RANGES)}
            line.send(("beat", (server.clock(), statuses)))
            await asyncio.sleep(BEAT)

    loop = asyncio.get_running_loop()
    loop.add_reader(line.fileno(), hear)
    beating = asyncio.create_task(beat())
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    beating.cancel()
    loop.remove_reader(line.fileno())
    with contextlib.suppress(OSError):
        line.send(("end", {n: server.status(n) for n in range(ps_task.NUM_RANGES)}))
    server.close()
    os.close(file)


torch.set_num_threads(1)
warnings.simplefilter("error")
asyncio.run(main(line, name, mode, initial, ledger))  # type: ignore[name-defined]  # noqa: F821
