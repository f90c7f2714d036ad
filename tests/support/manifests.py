"""Manifests that are wrong, sound, or changed, for whoever has to judge them."""

import copy
from typing import Any, TypeAlias

Manifest: TypeAlias = dict[str, Any]

BASE: Manifest = {
    "apiVersion": "reknit.dev/v1alpha1",
    "kind": "DistributedTrainingJob",
    "metadata": {"name": "gpt-bytes"},
    "spec": {"entrypoint": {"function": "gpt_bytes:train"}, "batch": {"global": 64, "micro": 8}},
}


def change(changes: dict[str, Any], base: Manifest = BASE) -> Manifest:
    """A copy of `base` with the value at each dotted path set; ... removes it."""
    manifest = copy.deepcopy(base)
    for path, value in changes.items():
        *above, last = path.split(".")
        part = manifest
        for step in above:
            part = part.setdefault(step, {})
        if value is ...:
            part.pop(last, None)
        else:
            part[last] = copy.deepcopy(value)
    return manifest


COMMAND = {"spec.entrypoint": {"command": ["python", "train.py"]}, "spec.batch": ...}
PIPELINE = {"spec.workers": {"replicas": 2}}
CONTAINERS = "spec.workers.template.spec.containers"

SOUND = {
    "shortest": {},
    "command": COMMAND,
    "command with a volume": COMMAND
    | {"spec.checkpoint": {"volume": {"hostPath": {"path": "/a"}}, "every": "600s"}},
    "command of another framework": COMMAND | {"spec.framework": "TensorFlow"},
    "empty config of a command": COMMAND
    | {"spec.entrypoint": {"command": ["python"], "config": {}}},
    "config with null": {"spec.entrypoint.config": {"a": None, "b": [1, {"c": 2.5}]}},
    "longest name": {"metadata.name": "g" * 40},
    "name of one letter": {"metadata.name": "g"},
    "degree that is the world": {
        "spec.parallelism.data": 6,
        "spec.workers": {"replicas": 3, "processesPerReplica": 2},
    },
    "uneven number of ranks": {"spec.workers.replicas": 5},
    "ZeRO": {
        "spec.parallelism.sharding": "ZeRO3",
        "spec.deepspeed.config": {"zero_optimization": {"overlap_comm": True}},
    },
    "layers cut": {"spec.parallelism.tensor": 2, "spec.workers.replicas": 4},
    "shard groups": {
        "spec.parallelism": {"shardGroup": 2, "sharding": "FSDP"},
        "spec.workers": {"replicas": 3, "processesPerReplica": 2},
    },
    "stages": PIPELINE | {"spec.parallelism.pipeline": {"stages": 2, "schedule": "GPipe"}},
    "stages cut by hand": PIPELINE
    | {"spec.parallelism.pipeline": {"stages": 2, "cut": ["blocks.1"]}},
    "interleaved stages and data": {
        "spec.workers": {"replicas": 4},
        "spec.parallelism.pipeline": {
            "stages": 2,
            "schedule": "Interleaved",
            "stagesPerRank": 2,
            "cut": ["blocks.0", "blocks.1", "norm"],
        },
        "spec.batch": {"global": 16, "micro": 4},
    },
    "compression": {"spec.communication.compression": "BF16", "spec.precision": "FP16"},
    "PowerSGD": {"spec.communication": {"compression": "PowerSGD", "powerSgdRank": 8}},
    "rounds": {
        "spec.communication": {
            "compression": "FP16",
            "rounds": {"localSteps": 4, "learningRatePercent": 70, "momentumPercent": 90},
        },
        "spec.workers.replicas": 2,
    },
    "clients": {
        "spec.communication.rounds": {
            "localSteps": 2,
            "workerState": "Fresh",
            "clientsPerRound": 4,
        },
        "spec.workers.replicas": 3,
    },
    "shrinking": {
        "spec.workers": {"replicas": 4, "minReplicas": 2},
        "spec.recovery.onLoss": "Shrink",
    },
    "no copies": {"spec.recovery.copies": 0, "spec.parallelism.sharding": "ZeRO1"},
    "two copies": {"spec.recovery.copies": 2, "spec.parallelism.sharding": "ZeRO1"},
    "minReplicas of all": {"spec.workers": {"replicas": 4, "minReplicas": 4}},
    "template": {
        CONTAINERS: [
            {"name": "training", "env": [{"name": "RANKS", "value": "1"}], "volumeMounts": []},
            {"name": "log", "image": "log:1", "args": ["-f"]},
        ],
        "spec.workers.template.spec.tolerations": [{"key": "gpu"}],
        "spec.workers.template.metadata.labels": {"team": "a"},
    },
    "resources": {
        "spec.workers.resources": {
            "requests": {"cpu": "500m", "memory": "1.5Gi"},
            "limits": {"nvidia.com/gpu": 1},
        }
    },
    "rules": {
        "spec.recovery.rules": [
            {"onExitCodes": [3], "action": "FailJob"},
            {"onReason": "Preempted", "action": "ReplacePod", "countsTowards": "Preemptions"},
        ],
        "spec.recovery.budget": {"failures": 3, "per": "30m"},
    },
    "checkpoints": {
        "spec.checkpoint": {
            "volume": {"nfs": {"server": "files", "path": "/training"}},
            "every": "1h30m",
            "everySteps": 100,
            "keep": 1,
        }
    },
    "code in a ConfigMap": {"spec.source": {"configMap": {"name": "gpt-bytes"}}},
    "the rest": {
        "spec.image": "registry.example/gpt:1",
        "spec.precision": "BF16",
        "spec.seed": 2**32 - 1,
        "spec.suspend": True,
        "spec.scheduling.priorityClassName": "high",
        "spec.activeDeadlineSeconds": 86400,
        "spec.ttlSecondsAfterFinished": 0,
    },
}

FIXED_CHANGES = {
    "entrypoint": {"spec.entrypoint.function": "gpt_bytes:other"},
    "entrypoint, only its config": {"spec.entrypoint.config": {"depth": 5}},
    "image": {"spec.image": "registry.example/gpt:2"},
    "source": {"spec.source": {"configMap": {"name": "code"}}},
    "framework": {"spec.framework": "JAX"},
    "parameterServers": {"spec.parameterServers": {"replicas": 2}},
    "parallelism": {"spec.parallelism.sharding": "ZeRO1"},
    "batch": {"spec.batch.micro": 4},
    "batch, removed": {"spec.batch": ...},
    "precision": {"spec.precision": "BF16"},
    "seed": {"spec.seed": 1},
    "workers.replicas": {"spec.workers.replicas": 2},
    "workers.minReplicas": {"spec.workers.minReplicas": 1},
    "workers.processesPerReplica": {"spec.workers.processesPerReplica": 2},
    "spares": {"spec.spares.replicas": 1},
    "deepspeed": {"spec.deepspeed.config": {"a": 1}},
    "communication": {"spec.communication.compression": "BF16"},
    "recovery.copies": {"spec.recovery.copies": 2},
    "recovery.onLoss": {"spec.recovery.onLoss": "Shrink"},
    "recovery.wrongNumbers": {"spec.recovery.wrongNumbers.onBadData": "Skip"},
    "recovery.processBudget": {"spec.recovery.processBudget": {"failures": 1, "per": "1m"}},
    "checkpoint": {"spec.checkpoint.everySteps": 5},
    "scheduling": {"spec.scheduling.priorityClassName": "high"},
}

FREE_CHANGES = {
    "nothing": {},
    "default written out": {"spec.precision": "FP32", "spec.workers": {"replicas": 1}},
    "suspend": {"spec.suspend": True},
    "deadline": {"spec.activeDeadlineSeconds": 60},
    "time to live": {"spec.ttlSecondsAfterFinished": 60},
    "budget": {"spec.recovery.budget": {"failures": 1, "per": "1m"}},
    "rules": {"spec.recovery.rules": [{"onExitCodes": [3], "action": "FailJob"}]},
    "resources": {"spec.workers.resources.requests": {"cpu": 1}},
    "labels": {"metadata.labels": {"team": "a"}},
}
