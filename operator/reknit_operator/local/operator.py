"""The operator as a process of its own: `python -m reknit_operator.local.operator`."""

import argparse
import asyncio
import logging
import secrets
import sys
from pathlib import Path

import aiohttp

from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import Kind
from reknit_operator.local.client import StoreClient
from reknit_operator.reconcile.cache import Cache, JobKey
from reknit_operator.reconcile.controller import Controller
from reknit_operator.reconcile.informer import follow, load
from reknit_operator.reconcile.poll import PERIOD, Poller
from reknit_operator.reconcile.queue import KeyedQueue


async def operate(socket: Path, options: BuildOptions) -> None:
    """Drives every job of the store at `socket` until the store goes away."""
    cache, queue = Cache(), KeyedQueue[JobKey]()
    async with StoreClient(socket) as client, aiohttp.ClientSession() as session:
        poller = Poller(session, queue.add, period=PERIOD / 4)
        controller = Controller(
            client,
            cache,
            queue,
            poller,
            options=options,
            new_token=lambda: secrets.token_urlsafe(32),
        )
        try:
            versions = {kind: await load(kind, client, cache, queue) for kind in Kind}
            async with asyncio.TaskGroup() as group:
                for kind, version in versions.items():
                    following = follow(kind, client, cache, queue, after=version)
                    group.create_task(following, name=f"follow {kind}")
                group.create_task(controller.run(), name="controller")
        finally:
            await poller.close()


def main() -> int:
    """Runs until it is killed, or until the store goes away; then the exit status is 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket of the store")
    parser.add_argument("--checkpoint-root", required=True, help="folder for checkpoints")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the pods")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    options = BuildOptions(
        python=(arguments.python,), checkpoint_root=str(arguments.checkpoint_root)
    )
    try:
        asyncio.run(operate(arguments.socket, options))
    except* OSError as gone:
        logging.getLogger(__name__).info("Ending: %s", gone.exceptions[0])
    return 1


if __name__ == "__main__":
    sys.exit(main())
