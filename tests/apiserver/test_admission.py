"""The API server refuses what `reknit validate` refuses, in the same words."""

import pytest

from brokenmanifests import BROKEN
from kubeapi import RefusalError
from manifests import FIXED_CHANGES, FREE_CHANGES, SOUND, change
from reknit_operator.api.shape import parse_object
from reknit_operator.constants import Kind
from reknit_operator.kube.resources import RESOURCES, collection_path

SENTENCE = "this cannot change while the job runs, set suspend to true first"

SHAPELESS = {
    "unknown field": ({"spec.replicas": 2}, "spec.replicas"),
    "unknown field in a part": ({"spec.batch.size": 2}, "spec.batch.size"),
    "text for a number": ({"spec.batch.micro": "8"}, "spec.batch.micro"),
    "number below its bound": ({"spec.workers.replicas": 0}, "spec.workers.replicas"),
    "number above its bound": ({"spec.spares.replicas": 65}, "spec.spares.replicas"),
    "unknown choice": ({"spec.precision": "FP8"}, "spec.precision"),
    "no function": ({"spec.entrypoint.function": "train"}, "spec.entrypoint.function"),
    "no duration": ({"spec.checkpoint.every": "ten minutes"}, "spec.checkpoint.every"),
    "no amount": (
        {"spec.workers.resources.limits": {"memory": "lots"}},
        "spec.workers.resources.limits.memory",
    ),
    "missing part": ({"spec.entrypoint": ...}, "spec.entrypoint"),
    "missing field": ({"spec.batch": {"global": 8}}, "spec.batch.micro"),
}


@pytest.fixture
def jobs(namespace):
    return collection_path(RESOURCES[Kind.JOB], namespace)


async def refusal(api, method, path, manifest):
    """The (field, sentence) of everything that the API server finds wrong, and all its words."""
    with pytest.raises(RefusalError) as caught:
        await api.call(method, path, manifest, dryRun="All", fieldValidation="Strict")
    answer = caught.value.answer
    causes = answer.get("details", {}).get("causes", ())
    return [(cause["field"], cause["message"]) for cause in causes], answer["message"]


@pytest.mark.parametrize(("changes", "field", "sentence"), BROKEN.values(), ids=BROKEN)
async def test_a_wrong_job_is_refused_in_our_words(api, jobs, changes, field, sentence):
    found, _ = await refusal(api, "POST", jobs, change(changes))
    assert any(path == field and sentence in message for path, message in found), found


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
async def test_a_sound_job_is_taken_and_completed(api, jobs, changes):
    manifest = change(changes)
    taken = await api.call("POST", jobs, manifest, dryRun="All", fieldValidation="Strict")
    wanted = parse_object(manifest).to_object()["spec"]
    assert parse_object({**manifest, "spec": taken["spec"]}).to_object()["spec"] == wanted


async def test_defaults_stand_in_the_object(api, jobs):
    spec = (await api.call("POST", jobs, change({}), dryRun="All"))["spec"]
    assert (spec["precision"], spec["framework"], spec["seed"]) == ("FP32", "PyTorch", 0)
    assert (spec["suspend"], spec["workers"]["replicas"]) == (False, 1)
    assert spec["parallelism"]["data"] == -1
    assert spec["recovery"]["budget"] == {"failures": 10, "per": "1h"}
    assert spec["recovery"]["onLoss"] == "Wait"


@pytest.mark.parametrize(("changes", "field"), SHAPELESS.values(), ids=SHAPELESS)
async def test_errors_of_shape_name_the_same_field(api, jobs, changes, field):
    found, message = await refusal(api, "POST", jobs, change(changes))
    assert any(path == field for path, _ in found) or f'unknown field "{field}"' in message


@pytest.mark.parametrize(("case", "changes"), FIXED_CHANGES.items(), ids=FIXED_CHANGES)
async def test_what_ranks_are_told_cannot_change(api, jobs, namespace, case, changes):
    old = await api.create(change({"metadata.namespace": namespace}))
    found, _ = await refusal(api, "PUT", f"{jobs}/gpt-bytes", change(changes, old))
    field = f"spec.{case.partition(',')[0]}"
    assert any(path == field and SENTENCE in message for path, message in found), found


@pytest.mark.parametrize("changes", FREE_CHANGES.values(), ids=FREE_CHANGES)
async def test_the_rest_can(api, jobs, namespace, changes):
    old = await api.create(change({"metadata.namespace": namespace}))
    await api.call("PUT", f"{jobs}/gpt-bytes", change(changes, old))


async def test_a_suspended_job_may_change(api, jobs, namespace):
    old = await api.create(change({"metadata.namespace": namespace, "spec.suspend": True}))
    await api.call("PUT", f"{jobs}/gpt-bytes", change({"spec.seed": 5}, old))


async def test_the_status_is_not_for_users(api, jobs, namespace):
    made = await api.create(
        change({"metadata.namespace": namespace, "status": {"message": "mine", "attempts": 3}})
    )
    assert "message" not in made.get("status", {})
    changed = await api.patch(Kind.JOB, namespace, "gpt-bytes", {"status": {"attempts": 3}})
    assert changed.get("status", {}).get("attempts", 0) == 0
