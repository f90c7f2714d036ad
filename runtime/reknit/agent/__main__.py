"""`python -m reknit.agent`."""

import argparse
import asyncio
import os
import sys
import traceback
from pathlib import Path

from reknit.agent.config import DEFAULT_TARGET, read_config
from reknit.agent.process import Agent, write_termination
from reknit.errors import ConfigurationError
from reknit.protocol.outcome import AGENT_EXIT_CODES, Conclusion, ExitClass
from reknit.protocol.settings import ENV_TERMINATION_LOG


def main() -> int:
    """Runs the agent of this pod; the exit status says how the job, or its part here, ended."""
    parser = argparse.ArgumentParser(prog="python -m reknit.agent")
    parser.add_argument("--rank-target", default=DEFAULT_TARGET, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        return asyncio.run(_run(options.rank_target))
    except ConfigurationError as error:
        return _conclude(ExitClass.CONFIGURATION, str(error))
    except Exception as error:
        traceback.print_exc()
        return _conclude(ExitClass.INFRASTRUCTURE, f"the agent failed: {error!r}")


async def _run(target: str) -> int:
    return await Agent(read_config(os.environ, target)).run()


def _conclude(exit_class: ExitClass, message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    path = Path(os.environ.get(ENV_TERMINATION_LOG, "/dev/termination-log"))
    conclusion = Conclusion(exit_class=exit_class, message=message)
    write_termination(path, conclusion.termination_message())
    return AGENT_EXIT_CODES[exit_class]


if __name__ == "__main__":
    sys.exit(main())
