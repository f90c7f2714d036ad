"""Builders: what stands in the objects of a job."""

import copy
import json
from base64 import b64decode

from reknit.protocol.settings import JobSettings
from reknit_operator.build.coordinator import build_coordinator
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.overlay import lay_over
from reknit_operator.build.secret import build_secret
from reknit_operator.build.service import build_service
from reknit_operator.build.settings import job_settings
from reknit_operator.build.worker import build_worker
from reknit_operator.constants import LABEL_JOB, LABEL_JOB_UID, Role

OPTIONS = BuildOptions()
LOCAL = BuildOptions(python=("/venv/python",), checkpoint_root="/runs/1/checkpoints")


def environment(pod):
    return {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}


def worker(job, replica=1, *, options=OPTIONS, attempt=1, replacements=0):
    return build_worker(job, options, replica, attempt=attempt, replacements=replacements)


def test_every_child_is_owned_by_the_job_and_carries_its_uid(make_job):
    job = make_job()
    children = [
        build_secret(job, "t"),
        build_service(job),
        worker(job),
        build_coordinator(job, OPTIONS, incarnation=1, attempt=1, replacements=0),
    ]
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (job.metadata.uid, True)
        assert child["metadata"]["labels"][LABEL_JOB_UID] == job.metadata.uid


def test_secret_holds_the_token_encoded(make_job):
    secret = build_secret(make_job(), "a b")
    assert b64decode(secret["data"]["token"]) == b"a b"


def test_service_selects_the_pods_and_publishes_them_early(make_job):
    spec = build_service(make_job())["spec"]
    labels = worker(make_job())["metadata"]["labels"]
    assert spec["selector"].items() <= labels.items()
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is True


def test_worker_identity(make_job):
    pod = worker(make_job(), 1, attempt=2, replacements=3)
    assert pod["metadata"]["name"] == "gpt-worker-1-4"
    labels = pod["metadata"]["labels"]
    shown = {name.removeprefix("reknit.dev/"): value for name, value in labels.items()}
    assert (shown["role"], shown["replica"]) == ("worker", "1")
    assert (shown["attempt"], shown["replacement"]) == ("2", "3")
    assert pod["spec"]["hostname"] == "worker-1"


def test_a_spare_differs_from_a_worker_by_its_role_alone(make_job):
    job = make_job(spares={"replicas": 1})
    spare = build_worker(job, OPTIONS, 0, attempt=1, replacements=2, role=Role.SPARE)
    assert spare["metadata"]["name"] == "gpt-spare-0-2"
    assert spare["metadata"]["labels"]["reknit.dev/role"] == "spare"
    variables = environment(spare)
    assert (variables["REKNIT_ROLE"]["value"], variables["REKNIT_REPLICA"]["value"]) == (
        "spare",
        "0",
    )
    assert JobSettings.model_validate_json(variables["REKNIT_JOB"]["value"]).num_spares == 1
    same = worker(job, 0, replacements=2)
    assert spare["spec"].keys() == same["spec"].keys()
    assert spare["spec"]["containers"][0].keys() == same["spec"]["containers"][0].keys()


def test_worker_environment(make_job):
    variables = environment(worker(make_job(), 1))
    settings = JobSettings.model_validate_json(variables["REKNIT_JOB"]["value"])
    assert (settings.name, settings.num_workers) == ("gpt", 2)
    assert variables["REKNIT_REPLICA"]["value"] == "1"
    assert variables["REKNIT_COORDINATOR"]["value"] == "coordinator.gpt.default.svc:7070"
    reference = variables["REKNIT_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "gpt-token", "key": "token"}
    assert "REKNIT_INCARNATION" not in variables


def test_coordinator_knows_its_incarnation_and_has_a_lasting_dns_name(make_job):
    pods = [
        build_coordinator(make_job(), OPTIONS, incarnation=n, attempt=1, replacements=0)
        for n in (1, 2)
    ]
    assert [pod["metadata"]["name"][-1] for pod in pods] == ["1", "2"]
    assert [environment(pod)["REKNIT_INCARNATION"]["value"] for pod in pods] == ["1", "2"]
    assert {pod["spec"]["hostname"] for pod in pods} == {"coordinator"}


def test_pods_keep_the_restricted_standard(make_job):
    for pod in (
        worker(make_job()),
        build_coordinator(make_job(), OPTIONS, incarnation=1, attempt=1, replacements=0),
    ):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["restartPolicy"] == "Never"
        assert spec["securityContext"]["runAsNonRoot"] is True
        container = spec["containers"][0]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_template_is_laid_over(make_job):
    template = {
        "metadata": {"labels": {"team": "a", LABEL_JOB: "no"}, "annotations": {"note": "x"}},
        "spec": {
            "nodeSelector": {"gpu": "yes"},
            "securityContext": {"runAsUser": 1000},
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [
                {"name": "side", "image": "side:1"},
                {
                    "name": "training",
                    "env": [{"name": "LEVEL", "value": "2"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                },
            ],
        },
    }
    workers = {"replicas": 2, "template": template, "resources": {"limits": {"cpu": "2"}}}
    job = make_job(workers=workers, image="mine:1")
    before = copy.deepcopy(job.to_object())
    pod = worker(job)
    spec = pod["spec"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"][LABEL_JOB] == "gpt"
    assert pod["metadata"]["annotations"] == {"note": "x"}
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert [container["name"] for container in spec["containers"]] == ["training", "side"]
    training = spec["containers"][0]
    assert training["image"] == "mine:1"
    assert training["resources"]["limits"] == {"cpu": "2"}
    assert {mount["name"] for mount in training["volumeMounts"]} == {"shm", "data"}
    assert environment(pod)["LEVEL"]["value"] == "2"
    assert environment(pod)["REKNIT_REPLICA"]["value"] == "1"
    assert job.to_object() == before


def test_code_from_a_volume_is_where_the_program_starts(make_job):
    pod = worker(make_job(source={"configMap": {"name": "code"}}))
    container = pod["spec"]["containers"][0]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "source"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "source"]
    assert volume["configMap"] == {"name": "code"}
    assert (mount["mountPath"], mount["readOnly"]) == (container["workingDir"], True)


def test_code_in_the_image_starts_where_the_image_says(make_job):
    assert "workingDir" not in worker(make_job())["spec"]["containers"][0]


def test_a_claim_can_be_written_by_the_user_of_the_pod(make_job):
    claim = {"volume": {"persistentVolumeClaim": {"claimName": "c"}}}
    assert worker(make_job(checkpoint=claim))["spec"]["securityContext"]["fsGroup"] == 1000
    assert "fsGroup" not in worker(make_job())["spec"]["securityContext"]


def test_pods_leave_a_node_that_is_given_up_at_once(make_job):
    wanted = {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    job = make_job(workers={"replicas": 2, "template": wanted})
    coordinator = build_coordinator(job, OPTIONS, incarnation=1, attempt=1, replacements=0)
    for pod in (worker(job), coordinator):
        seconds = {
            each["key"]: each.get("tolerationSeconds") for each in pod["spec"]["tolerations"]
        }
        assert seconds == {
            "node.kubernetes.io/not-ready": 0,
            "node.kubernetes.io/unreachable": 0,
            "gpu": None,
        }


def test_the_coordinator_has_its_own_image_and_the_secrets_of_the_workers(make_job):
    secrets = [{"name": "registry"}]
    template = {"spec": {"imagePullSecrets": secrets, "nodeSelector": {"gpu": "yes"}}}
    job = make_job(workers={"replicas": 2, "template": template}, image="mine:1")
    pod = build_coordinator(job, OPTIONS, incarnation=1, attempt=1, replacements=0)
    assert pod["spec"]["imagePullSecrets"] == secrets
    assert pod["spec"]["containers"][0]["image"] == OPTIONS.coordinator_image
    assert "nodeSelector" not in pod["spec"]


def test_lists_without_names_are_replaced():
    assert lay_over({"args": [1], "env": [1]}, {"args": [2], "env": [2]}) == {
        "args": [2],
        "env": [1, 2],
    }


def test_pods_are_json_and_share_nothing(make_job):
    job = make_job()
    first, second = worker(job, 0), worker(job, 1)
    json.dumps(first)
    first["metadata"]["labels"]["x"] = "y"
    first["spec"]["containers"][0]["env"].clear()
    assert "x" not in second["metadata"]["labels"]
    assert second["spec"]["containers"][0]["env"]


def test_settings_follow_the_manifest(make_job):
    settings = job_settings(
        make_job(
            entrypoint={"function": "gpt:train", "config": {"depth": 4}},
            parallelism={"sharding": "ZeRO2"},
            precision="BF16",
            seed=5,
            workers={"replicas": 4, "minReplicas": 2, "processesPerReplica": 2},
            recovery={"onLoss": "Shrink"},
        ),
        OPTIONS,
    )
    assert settings.config == {"depth": 4}
    assert (settings.world_size, settings.min_workers) == (8, 2)
    assert (settings.sharding, settings.precision, settings.seed) == ("ZeRO2", "BF16", 5)
    assert settings.batch is not None
    assert settings.batch.global_batch == 8
    assert settings.recovery.on_loss == "Shrink"


def test_command_has_no_batch(make_job):
    settings = job_settings(make_job(entrypoint={"command": ["a", "b"]}, batch=None), OPTIONS)
    assert (settings.command, settings.batch, settings.function) == (("a", "b"), None, None)


def test_grace_period_of_the_template_reaches_pod_and_agent(make_job):
    spec = {"terminationGracePeriodSeconds": 90}
    job = make_job(workers={"replicas": 1, "template": {"spec": spec}})
    assert worker(job)["spec"]["terminationGracePeriodSeconds"] == 90
    assert job_settings(job, OPTIONS).recovery.grace_seconds == 90


def test_checkpoints_need_a_place(make_job):
    volume = {"persistentVolumeClaim": {"claimName": "ckpt"}}
    without, with_volume = make_job(), make_job(checkpoint={"volume": volume, "everySteps": 5})
    assert job_settings(without, OPTIONS).checkpoint is None
    settings = job_settings(with_volume, OPTIONS).checkpoint
    assert settings is not None
    assert (settings.path, settings.every_steps, settings.every_seconds) == (
        "/checkpoints",
        5,
        None,
    )
    assert {"name": "checkpoints", **volume} in worker(with_volume)["spec"]["volumes"]
    local = job_settings(without, LOCAL).checkpoint
    assert local is not None
    assert (local.path, local.every_seconds) == ("/runs/1/checkpoints", 600)
    names = [volume["name"] for volume in worker(with_volume, options=LOCAL)["spec"]["volumes"]]
    assert names == ["shm"]


def test_python_of_the_options_starts_the_programs(make_job):
    command = worker(make_job(), options=LOCAL)["spec"]["containers"][0]["command"]
    assert command == ["/venv/python", "-m", "reknit.agent"]
