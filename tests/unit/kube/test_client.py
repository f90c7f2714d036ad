"""Requests and answers of the client."""

import kopf
import pytest

from reknit_operator.constants import Kind
from reknit_operator.kube import access as ways
from reknit_operator.kube.access import Access
from reknit_operator.kube.answers import MAX_TRIES, BusyError
from reknit_operator.kube.client import KubeClient
from reknit_operator.reconcile.client import ConflictError, NotFoundError
from reknit_operator.reconcile.observed import Ref

POD = Ref(Kind.POD, "ns", "p", "uid-1")
JOB = Ref(Kind.JOB, "ns", "j", "uid-2")
PODS = "/api/v1/namespaces/ns/pods"


def pod(name="p", uid="uid-1", **fields):
    metadata = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": "3"}
    return {"metadata": metadata, "spec": {"nodeName": "n", "containers": []}, **fields}


@pytest.fixture
async def client(access):
    async with KubeClient(access, None) as made:
        yield made


async def test_objects_are_kept_small_and_say_what_they_are(scripted, client):
    big = pod(status={"phase": "Running"})
    big["metadata"] |= {"managedFields": [{}], "annotations": {"a": "b"}, "labels": {"l": "1"}}
    scripted.will(200, big)
    found = await client.get(POD)
    assert (found["apiVersion"], found["kind"]) == ("v1", "Pod")
    assert set(found["metadata"]) == {"name", "namespace", "uid", "resourceVersion", "labels"}
    assert found["spec"] == {"nodeName": "n"}
    assert found["status"] == {"phase": "Running"}


async def test_a_secret_keeps_its_data_and_a_job_all_that_it_says(scripted, client):
    metadata = pod()["metadata"]
    scripted.will(200, {"metadata": metadata, "data": {"token": "eA=="}})
    scripted.will(200, {"metadata": metadata, "spec": {"a": 1}, "status": {"b": 2}})
    secret = await client.get(Ref(Kind.SECRET, "ns", "s"))
    job = await client.get(Ref(Kind.JOB, "ns", "j"))
    assert secret["data"] == {"token": "eA=="}
    assert (job["spec"], job["status"]) == ({"a": 1}, {"b": 2})
    assert job["apiVersion"] == "reknit.dev/v1alpha1"


async def test_another_object_of_the_name_is_not_the_one(scripted, client):
    scripted.will(200, pod(uid="other"))
    with pytest.raises(NotFoundError):
        await client.get(POD)


async def test_lists_are_read_page_by_page(scripted, client):
    scripted.will(200, {"metadata": {"continue": "c1", "resourceVersion": "9"}, "items": [pod()]})
    scripted.will(200, {"metadata": {"resourceVersion": "9"}, "items": [pod("q")]})
    found = await client.list(Kind.POD, labels={"a": "b"})
    assert [item["metadata"]["name"] for item in found.items] == ["p", "q"]
    assert found.resource_version == "9"
    paths = [path for _, path, *_ in scripted.requests]
    assert paths == [
        "/api/v1/pods?limit=500&labelSelector=a%3Db",
        "/api/v1/pods?limit=500&labelSelector=a%3Db&continue=c1",
    ]


async def test_of_several_namespaces_the_oldest_list_counts(scripted, access):
    scripted.will(200, {"metadata": {"resourceVersion": "12"}, "items": [pod()]})
    scripted.will(200, {"metadata": {"resourceVersion": "9"}, "items": []})
    async with KubeClient(access, ("a", "b")) as client:
        found = await client.list(Kind.POD)
    assert (len(found.items), found.resource_version) == (1, "9")
    assert [path.split("?")[0] for _, path, *_ in scripted.requests] == [
        "/api/v1/namespaces/a/pods",
        "/api/v1/namespaces/b/pods",
    ]


async def test_the_status_is_replaced_if_nothing_has_changed(scripted, client):
    scripted.will(409, {"reason": "Conflict", "message": "it has"})
    with pytest.raises(ConflictError, match="it has"):
        await client.patch_status(JOB, {"attempts": 1}, resource_version="7")
    ((method, path, body, _),) = scripted.requests
    jobs = "/apis/reknit.dev/v1alpha1/namespaces/ns/distributedtrainingjobs"
    assert (method, path) == ("PUT", f"{jobs}/j/status")
    assert body["metadata"]["resourceVersion"] == "7"
    assert body["status"] == {"attempts": 1}


@pytest.mark.parametrize("force", [False, True])
async def test_only_the_object_that_was_meant_is_deleted(scripted, client, force):
    scripted.will(200)
    await client.delete(POD, force=force)
    ((method, path, body, _),) = scripted.requests
    assert (method, path) == ("DELETE", f"{PODS}/p")
    assert body["preconditions"] == {"uid": "uid-1"}
    assert body.get("gracePeriodSeconds") == (0 if force else None)


@pytest.mark.parametrize(("status", "reason"), [(404, "NotFound"), (409, "Conflict")])
async def test_deleting_what_is_not_there(scripted, client, status, reason):
    scripted.will(status, {"reason": reason})
    with pytest.raises(NotFoundError):
        await client.delete(POD)


async def test_a_busy_server_is_asked_again(scripted, client):
    scripted.will(429, Retry_After="0").will(503, "overloaded", Retry_After="0").will(200, pod())
    assert (await client.get(POD))["metadata"]["name"] == "p"
    assert len(scripted.requests) == 3


async def test_a_server_that_stays_busy_is_given_up(scripted, client):
    scripted.will(503, "overloaded", Retry_After="0")
    with pytest.raises(BusyError, match="overloaded"):
        await client.get(POD)
    assert len(scripted.requests) == MAX_TRIES


async def test_a_server_that_is_not_there_is_an_os_error(access):
    gone = Access(lambda: kopf.ConnectionInfo(server="http://127.0.0.1:1"))
    async with KubeClient(gone, None) as client:
        with pytest.raises(OSError, match="does not answer"):
            await client.get(POD)


async def test_requests_are_counted(scripted, access):
    told = []
    scripted.will(429, Retry_After="0").will(200, pod())
    async with KubeClient(access, None, counted=lambda *words: told.append(words[:3])) as client:
        await client.get(POD)
    assert told == [("GET", "Pod", 429), ("GET", "Pod", 200)]


def event(message="m"):
    involved = {"uid": "u", "name": "gpt"}
    metadata = {"namespace": "ns", "generateName": "gpt."}
    return {
        "metadata": metadata,
        "involvedObject": involved,
        "type": "Normal",
        "reason": "Started",
        "message": message,
        "lastTimestamp": "2026-01-01T12:00:00Z",
        "count": 1,
    }


async def test_events_are_created_once_and_then_counted_up(scripted, client):
    scripted.will(201)
    await client.record_event(event())
    await client.record_event(event())
    (first, path, created, _), (second, patched, changes, headers) = scripted.requests
    assert (first, second) == ("POST", "PATCH")
    assert patched == f"{path}/{created['metadata']['name']}"
    assert changes == {"count": 2, "lastTimestamp": "2026-01-01T12:00:00Z"}
    assert headers["Content-Type"] == "application/merge-patch+json"


async def test_an_event_that_cannot_be_recorded_hurts_nobody(scripted, client):
    scripted.will(403, {"message": "no"})
    await client.record_event(event())
    await client.record_event(event())
    assert [method for method, *_ in scripted.requests] == ["POST", "POST"]


async def test_a_token_that_is_refused_is_read_anew(scripted, monkeypatch):
    tokens = ["old", "new", "newer"]
    monkeypatch.setattr(ways, "_RENEW_AGAIN", ways.timedelta(0))
    access = Access(lambda: kopf.ConnectionInfo(server=scripted.url, token=tokens.pop(0)))
    scripted.will(401).will(200, pod())
    async with KubeClient(access, None) as client:
        await client.get(POD)
    shown = [headers["Authorization"] for *_, headers in scripted.requests]
    assert shown == ["Bearer old", "Bearer new"]


async def test_a_token_does_not_show(access):
    assert "first" not in repr(access)
