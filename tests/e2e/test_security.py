"""What a training pod cannot do, and which manifests a cluster does not take."""

import pytest

from brokenmanifests import BROKEN
from kubectl import KubectlError
from manifests import change

ACCOUNT = "/var/run/secrets/kubernetes.io"
KNOCK = (
    "import os, sys, urllib.error, urllib.request as r;"
    "to = r.Request('http://' + sys.argv[1] + ':7070/status');"
    "to.add_header('Authorization', 'Bearer ' + os.environ['REKNIT_TOKEN']);\n"
    "try: print(r.urlopen(to, timeout=5).status)\n"
    "except urllib.error.HTTPError as error: print(error.code)\n"
    "except OSError: print('no way')"
)


def test_agents_reach_their_own_coordinator_alone_and_no_api_server(tracked):
    with tracked("first").running() as first, tracked("second").running() as second:
        first.until_step(1)
        second.until_running()
        agent = first.pod_of("worker")
        python = ["python", "-c"]

        def knock(job):
            address = job.address_of("coordinator")
            return first.kubectl.exec(agent, *python, KNOCK, address).strip()

        found = f"import os; print(os.path.exists({ACCOUNT!r}), os.getuid())"
        assert first.kubectl.exec(agent, *python, found).split() == ["False", "1000"]
        assert knock(first) == "200"
        # Where network policies are enforced it does not get so far as to be refused.
        assert knock(second) in {"401", "no way"}


@pytest.mark.parametrize(("changes", "field", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_wrong_manifest_is_refused(kubectl, changes, field, sentence):
    with pytest.raises(KubectlError) as caught:
        kubectl("apply", "--filename=-", input=change(changes))
    assert sentence in str(caught.value)
    assert not kubectl.items("dtj")
