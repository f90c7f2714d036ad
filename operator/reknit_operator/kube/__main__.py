"""`python -m reknit_operator.kube`: the operator as it runs in a cluster."""

import asyncio
import logging
import sys

from reknit.errors import ConfigurationError
from reknit_operator.kube.access import find_access
from reknit_operator.kube.operator import Operator
from reknit_operator.kube.options import Options, parse_options
from reknit_operator.kube.watching import quiet_logs
from reknit_operator.reconcile.client import ApiError

logger = logging.getLogger("reknit_operator")


async def _run(options: Options) -> None:
    await Operator(find_access(), options).run()


def main() -> int:
    """Exit status: 0 after SIGTERM, 1 when it cannot go on, 2 when it cannot start."""
    options = parse_options()
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=options.log_level, format=form, stream=sys.stderr)
    quiet_logs()
    try:
        asyncio.run(_run(options))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except (ApiError, OSError) as error:
        logger.error("Ending: %s", error)
        return 1
    logger.info("Stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
