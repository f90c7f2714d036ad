"""Process 1 of a job's coordinator pod: `python -m reknit.coordinator`."""

import asyncio
import logging
import os
import signal
import sys

from reknit.coordinator import environment
from reknit.coordinator.server import Server
from reknit.errors import ConfigurationError
from reknit.protocol.settings import COORDINATOR_PORT

log = logging.getLogger(__name__)


async def serve(found: environment.Environment, port: int) -> None:
    """Serves until SIGTERM, SIGINT or a coordinator of a higher incarnation.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    server = Server(found.settings, token=found.token, incarnation=found.incarnation)
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    try:
        await server.start(found.host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(
            f"the coordinator cannot listen on {found.host}:{port}: {reason}"
        ) from None
    log.info("Coordinator %d listens on %s:%d.", found.incarnation, found.host, port)
    running = asyncio.create_task(server.run())
    stopping = asyncio.create_task(told_to_stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            log.info("Coordinator %d has been replaced by %d.", found.incarnation, running.result())
        else:
            log.info("Coordinator %d stops; training goes on.", found.incarnation)
    finally:
        running.cancel()
        stopping.cancel()
        await server.close()


def main() -> int:
    """Exit status: 0 after a clean stop, 2 when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(environment.read(os.environ), COORDINATOR_PORT))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
