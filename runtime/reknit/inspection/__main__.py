"""`python -m reknit.inspection`: the dry run as a process of its own.

Reads the job from the environment and writes one line of JSON to standard output: an `Inspection`
or an `InspectionFailure`. What the user's code prints goes to standard error.
"""

import os
import sys

from reknit.inspection.main import inspect
from reknit.protocol.settings import ENV_JOB, JobSettings


def main() -> int:
    """Exit status 0 once a result has been written, whatever it says."""
    # Descriptor 1 is kept for the result alone, also from libraries that do not use sys.stdout.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = inspect(JobSettings.model_validate_json(os.environ[ENV_JOB]))
    with result:
        result.write(found.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
