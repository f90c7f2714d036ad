"""Manifests that are refused: changes to the base, the field that is blamed, and the sentence."""

from manifests import COMMAND, CONTAINERS, PIPELINE

BROKEN = {
    "name with capitals": (
        {"metadata.name": "GPT"},
        "metadata.name",
        "the name GPT must be lower-case letters, digits and dashes, begin with a letter and not "
        "end with a dash",
    ),
    "name that begins with a digit": (
        {"metadata.name": "3b"},
        "metadata.name",
        "the name 3b must be lower-case letters, digits and dashes, begin with a letter and not "
        "end with a dash",
    ),
    "name too long": (
        {"metadata.name": "g" * 41},
        "metadata.name",
        "the name has 41 characters, use at most 40, because names of pods are made from it",
    ),
    "function and command": (
        {"spec.entrypoint.command": ["python"]},
        "spec.entrypoint",
        "give exactly one of function and command",
    ),
    "neither function nor command": (
        {"spec.entrypoint": {}, "spec.batch": ...},
        "spec.entrypoint",
        "give exactly one of function and command",
    ),
    "config for a command": (
        COMMAND | {"spec.entrypoint": {"command": ["python"], "config": {"lr": 0.1}}},
        "spec.entrypoint.config",
        "a command gets no config, put the values into its arguments or environment",
    ),
    "framework for a function": (
        {"spec.framework": "JAX"},
        "spec.framework",
        "a function runs under PyTorch, remove framework or give a command",
    ),
    "sharding for a command": (
        COMMAND | {"spec.parallelism": {"sharding": "ZeRO1"}},
        "spec.parallelism",
        "a command divides the world by itself, remove parallelism or give a function",
    ),
    "degree for a command": (
        COMMAND | {"spec.parallelism": {"data": 1}},
        "spec.parallelism",
        "a command divides the world by itself, remove parallelism or give a function",
    ),
    "batch for a command": (
        COMMAND | {"spec.batch": {"global": 8, "micro": 8}},
        "spec.batch",
        "a command makes its own batches, remove batch or give a function",
    ),
    "precision for a command": (
        COMMAND | {"spec.precision": "BF16"},
        "spec.precision",
        "a command chooses its own number format, remove precision or give a function",
    ),
    "seed for a command": (
        COMMAND | {"spec.seed": 1},
        "spec.seed",
        "a command seeds itself, remove seed or give a function",
    ),
    "checkpoint steps for a command": (
        COMMAND | {"spec.checkpoint.everySteps": 5},
        "spec.checkpoint",
        "a command writes its checkpoints itself, remove every, everySteps and keep or give a "
        "function",
    ),
    "checkpoint period for a command": (
        COMMAND | {"spec.checkpoint.every": "5m"},
        "spec.checkpoint",
        "a command writes its checkpoints itself, remove every, everySteps and keep or give a "
        "function",
    ),
    "checkpoints kept for a command": (
        COMMAND | {"spec.checkpoint.keep": 1},
        "spec.checkpoint",
        "a command writes its checkpoints itself, remove every, everySteps and keep or give a "
        "function",
    ),
    "copies for a command": (
        COMMAND | {"spec.recovery.copies": 2},
        "spec.recovery.copies",
        "the state of a command is not known and cannot be copied, remove copies or give a "
        "function",
    ),
    "outliers of a command": (
        COMMAND | {"spec.recovery.wrongNumbers": {"outlierFactor": 10}},
        "spec.recovery.wrongNumbers",
        "nobody looks at the numbers of a command, remove wrongNumbers or give a function",
    ),
    "schedule of one stage": (
        {"spec.parallelism.pipeline": {"schedule": "GPipe"}},
        "spec.parallelism.pipeline",
        "schedule, stagesPerRank and cut have no effect on one stage, raise stages or remove them",
    ),
    "several stages per rank in turns": (
        PIPELINE | {"spec.parallelism.pipeline": {"stages": 2, "stagesPerRank": 2}},
        "spec.parallelism.pipeline.stagesPerRank",
        "the schedule OneForwardOneBackward has one stage on each rank, set schedule to "
        "Interleaved or remove stagesPerRank",
    ),
    "too few layers named": (
        PIPELINE | {"spec.parallelism.pipeline": {"stages": 2, "cut": ["a", "b"]}},
        "spec.parallelism.pipeline.cut",
        "2 layers are named for 2 stages, name where each one but the first begins",
    ),
    "sharded stages": (
        PIPELINE | {"spec.parallelism": {"pipeline": {"stages": 2}, "sharding": "ZeRO1"}},
        "spec.parallelism.sharding",
        "this version cannot shard the stages of a pipeline, remove sharding or set "
        "pipeline.stages to 1",
    ),
    "interleaved stages with a part of a round": (
        PIPELINE
        | {
            "spec.parallelism.pipeline": {"stages": 2, "schedule": "Interleaved"},
            "spec.batch": {"global": 12, "micro": 4},
        },
        "spec.parallelism.pipeline.schedule",
        "Interleaved needs as many micro-batches for each pipeline as it has stages, or a "
        "multiple, change batch or take OneForwardOneBackward",
    ),
    "interleaved stages in a world that shrinks": (
        {
            "spec.parallelism.pipeline": {"stages": 2, "schedule": "Interleaved"},
            "spec.workers": {"replicas": 4, "minReplicas": 2},
            "spec.batch": {"global": 16, "micro": 2},
            "spec.recovery.onLoss": "Shrink",
        },
        "spec.parallelism.pipeline.schedule",
        "Interleaved needs the same number of micro-batches in every world, take "
        "OneForwardOneBackward or remove workers.minReplicas",
    ),
    "layers cut and sharded": (
        {
            "spec.parallelism.tensor": 2,
            "spec.parallelism.sharding": "ZeRO2",
            "spec.workers.replicas": 4,
        },
        "spec.parallelism.tensor",
        "layers are cut without sharding in this version, set sharding to None or tensor to 1",
    ),
    "layers cut in stages": (
        {
            "spec.parallelism": {"tensor": 2, "pipeline": {"stages": 2}},
            "spec.workers.replicas": 4,
        },
        "spec.parallelism.tensor",
        "either layers or the model are cut in this version, set tensor or pipeline.stages to 1",
    ),
    "shard group without FSDP": (
        {
            "spec.parallelism.shardGroup": 2,
            "spec.parallelism.sharding": "ZeRO3",
            "spec.workers.replicas": 4,
        },
        "spec.parallelism.shardGroup",
        "only FSDP divides the state within groups, set sharding to FSDP or remove shardGroup",
    ),
    "shard groups that are not whole": (
        {
            "spec.parallelism": {"shardGroup": 4, "sharding": "FSDP"},
            "spec.workers.replicas": 6,
        },
        "spec.parallelism.shardGroup",
        "the data-parallel ranks do not make whole groups of 4, choose a shardGroup that divides "
        "their number",
    ),
    "degrees below the world": (
        {"spec.parallelism.data": 3, "spec.workers.replicas": 2},
        "spec.parallelism",
        "data 3 x pipeline 1 x tensor 1 does not multiply to the world of 2 ranks, set data to -1 "
        "or change workers",
    ),
    "degree of zero": (
        {"spec.parallelism.data": 0},
        "spec.parallelism",
        "data 0 x pipeline 1 x tensor 1 does not multiply to the world of 1 ranks, set data to -1 "
        "or change workers",
    ),
    "fixed degree of a world that shrinks": (
        {
            "spec.parallelism.data": 4,
            "spec.workers": {"replicas": 4, "minReplicas": 2},
            "spec.recovery.onLoss": "Shrink",
        },
        "spec.parallelism.data",
        "data 4 leaves no room for the world to shrink, set data to -1 or remove "
        "workers.minReplicas",
    ),
    "function without batch": (
        {"spec.batch": ...},
        "spec.batch",
        "a function needs batch sizes, add batch with global and micro",
    ),
    "micro does not divide global": (
        {"spec.batch.micro": 7},
        "spec.batch.micro",
        "the global batch of 64 samples is no multiple of the micro-batch of 7, change one of them",
    ),
    "micro above global": (
        {"spec.batch": {"global": 4, "micro": 8}},
        "spec.batch.micro",
        "the global batch of 4 samples is no multiple of the micro-batch of 8, change one of them",
    ),
    "DeepSpeed configuration without DeepSpeed": (
        {"spec.deepspeed.config": {"zero_optimization": {"overlap_comm": True}}},
        "spec.deepspeed.config",
        "this configuration has no effect without DeepSpeed, set parallelism.sharding to ZeRO1, "
        "ZeRO2 or ZeRO3, or remove it",
    ),
    "compression for a command": (
        COMMAND | {"spec.communication": {"compression": "BF16"}},
        "spec.communication",
        "a command communicates by itself, remove communication or give a function",
    ),
    "rounds for a command": (
        COMMAND | {"spec.communication": {"rounds": {"localSteps": 2}}},
        "spec.communication",
        "a command communicates by itself, remove communication or give a function",
    ),
    "compression of shards": (
        {"spec.communication.compression": "FP16", "spec.parallelism.sharding": "ZeRO1"},
        "spec.communication",
        "compression and rounds need ranks that each hold the whole model, set "
        "parallelism.sharding to None and stages and tensor to 1, or remove communication",
    ),
    "rank without PowerSGD": (
        {"spec.communication": {"compression": "FP16", "powerSgdRank": 4}},
        "spec.communication.powerSgdRank",
        "only PowerSGD has a rank, set compression to PowerSGD or remove powerSgdRank",
    ),
    "PowerSGD in rounds": (
        {"spec.communication": {"compression": "PowerSGD", "rounds": {"localSteps": 2}}},
        "spec.communication.compression",
        "PowerSGD compresses the gradients of single steps, which rounds do not add up, take FP16 "
        "or BF16 or remove rounds",
    ),
    "loss scale in rounds": (
        {"spec.communication.rounds": {"localSteps": 2}, "spec.precision": "FP16"},
        "spec.precision",
        "the loss scale of FP16 does not go with rounds or PowerSGD, set precision to BF16 or FP32",
    ),
    "loss scale of PowerSGD": (
        {"spec.communication.compression": "PowerSGD", "spec.precision": "FP16"},
        "spec.precision",
        "the loss scale of FP16 does not go with rounds or PowerSGD, set precision to BF16 or FP32",
    ),
    "rounds in a world that shrinks": (
        {
            "spec.communication.rounds": {"localSteps": 2},
            "spec.workers": {"replicas": 4, "minReplicas": 2},
            "spec.recovery.onLoss": "Shrink",
        },
        "spec.recovery.onLoss",
        "the number of ranks is part of what rounds and PowerSGD compute, set onLoss to Wait or "
        "change communication",
    ),
    "rounds that do not divide the batch": (
        {"spec.communication.rounds": {"localSteps": 3}, "spec.workers.replicas": 2},
        "spec.batch.global",
        "the 64 samples of a round are no multiple of 48, which is micro x localSteps x "
        "clientsPerRound or ranks, change one of them",
    ),
    "clients that do not divide the batch": (
        {
            "spec.communication.rounds": {
                "localSteps": 2,
                "workerState": "Fresh",
                "clientsPerRound": 3,
            }
        },
        "spec.batch.global",
        "the 64 samples of a round are no multiple of 48, which is micro x localSteps x "
        "clientsPerRound or ranks, change one of them",
    ),
    "clients that remember": (
        {"spec.communication.rounds": {"localSteps": 2, "clientsPerRound": 4}},
        "spec.communication.rounds.workerState",
        "nothing is remembered of a client's optimizer, set workerState to Fresh or remove "
        "clientsPerRound",
    ),
    "parameter servers for a command": (
        COMMAND | {"spec.parameterServers": {"replicas": 2}},
        "spec.parameterServers",
        "a command finds no parameter servers, remove parameterServers or give a function",
    ),
    "asynchronous parameter servers": (
        {"spec.parameterServers": {"replicas": 2, "consistency": "Asynchronous"}},
        "spec.parameterServers.consistency",
        "this version lets all workers take each step together, set consistency to Synchronous",
    ),
    "staleness of synchronous parameter servers": (
        {"spec.parameterServers": {"replicas": 2, "maxStaleness": 4}},
        "spec.parameterServers.maxStaleness",
        "a largest staleness belongs to StaleSynchronous alone, remove maxStaleness",
    ),
    "two copies on one parameter server": (
        {"spec.parameterServers": {"replicas": 1}},
        "spec.parameterServers.copies",
        "2 copies of a range need at least 2 servers, set replicas to 2 or copies to 1",
    ),
    "sharding beside parameter servers": (
        {"spec.parameterServers": {"replicas": 2}, "spec.parallelism.sharding": "FSDP"},
        "spec.parallelism.sharding",
        "parameter servers divide the parameters themselves, set sharding to None or remove "
        "parameterServers",
    ),
    "stages beside parameter servers": (
        PIPELINE
        | {
            "spec.parameterServers": {"replicas": 2},
            "spec.parallelism.pipeline": {"stages": 2, "schedule": "GPipe"},
        },
        "spec.parallelism",
        "parameter servers work with whole models alone, set stages and tensor to 1 or remove "
        "parameterServers",
    ),
    "compression beside parameter servers": (
        {"spec.parameterServers": {"replicas": 2}, "spec.communication.compression": "BF16"},
        "spec.communication",
        "workers send their gradients to parameter servers and not to each other, set "
        "parameterServers.compression and remove communication",
    ),
    "FP16 with parameter servers": (
        {"spec.parameterServers": {"replicas": 2}, "spec.precision": "FP16"},
        "spec.precision",
        "parameter servers do not scale the loss, set precision to FP32 or BF16",
    ),
    "shrinking with parameter servers": (
        {
            "spec.parameterServers": {"replicas": 2},
            "spec.workers": {"replicas": 4, "minReplicas": 2},
            "spec.recovery.onLoss": "Shrink",
        },
        "spec.recovery.onLoss",
        "with parameter servers this version keeps the number of workers, set onLoss to Wait",
    ),
    "copies of shards with parameter servers": (
        {"spec.parameterServers": {"replicas": 2}, "spec.recovery.copies": 2},
        "spec.recovery.copies",
        "workers hold no shard that could be copied, set parameterServers.copies and remove "
        "recovery.copies",
    ),
    "wrong numbers with parameter servers": (
        {
            "spec.parameterServers": {"replicas": 2},
            "spec.recovery.wrongNumbers": {"outlierFactor": 10},
        },
        "spec.recovery.wrongNumbers",
        "parameter servers apply what was pushed, so no update can be taken back, remove "
        "wrongNumbers",
    ),
    "minReplicas above replicas": (
        {"spec.workers": {"replicas": 2, "minReplicas": 3}},
        "spec.workers.minReplicas",
        "minReplicas 3 is more than replicas 2, lower minReplicas or raise replicas",
    ),
    "minReplicas without shrinking": (
        {"spec.workers": {"replicas": 4, "minReplicas": 3}},
        "spec.workers.minReplicas",
        "fewer workers are only used to shrink, set recovery.onLoss to Shrink or remove "
        "minReplicas",
    ),
    "shrinking without minReplicas": (
        {"spec.workers.replicas": 4, "spec.recovery.onLoss": "Shrink"},
        "spec.recovery.onLoss",
        "to shrink, set workers.minReplicas to less than workers.replicas",
    ),
    "image of the training container": (
        {CONTAINERS: [{"name": "training", "image": "mine:1"}]},
        f"{CONTAINERS}[0]",
        "the training container takes its image from spec.image, its program from spec.entrypoint "
        "and its resources from spec.workers.resources, set them there",
    ),
    "reserved variable": (
        {CONTAINERS: [{"name": "log"}, {"name": "training", "env": [{"name": "RANK"}]}]},
        f"{CONTAINERS}[1].env[0].name",
        "Reknit sets the variable RANK itself, choose another name",
    ),
    "variable with a reserved prefix": (
        {CONTAINERS: [{"name": "training", "env": [{"name": "A"}, {"name": "REKNIT_JOB"}]}]},
        f"{CONTAINERS}[0].env[1].name",
        "Reknit sets the variable REKNIT_JOB itself, choose another name",
    ),
    "rule without a condition": (
        {"spec.recovery.rules": [{"onExitCodes": [3], "action": "FailJob"}, {"action": "FailJob"}]},
        "spec.recovery.rules[1]",
        "this rule would match nothing, give onExitCodes, onReason or both",
    ),
    "volume without a kind": (
        {"spec.checkpoint.volume": {}},
        "spec.checkpoint.volume",
        "give exactly one of persistentVolumeClaim, nfs and hostPath",
    ),
    "volume of two kinds": (
        {
            "spec.checkpoint.volume": {
                "persistentVolumeClaim": {"claimName": "c"},
                "hostPath": {"path": "/mnt"},
            }
        },
        "spec.checkpoint.volume",
        "give exactly one of persistentVolumeClaim, nfs and hostPath",
    ),
    "source without a kind": (
        {"spec.source": {}},
        "spec.source",
        "give exactly one of configMap, persistentVolumeClaim, nfs and hostPath",
    ),
    "source of two kinds": (
        {"spec.source": {"configMap": {"name": "code"}, "hostPath": {"path": "/code"}}},
        "spec.source",
        "give exactly one of configMap, persistentVolumeClaim, nfs and hostPath",
    ),
    "gang": (
        {"spec.scheduling.gang": "PodGroup"},
        "spec.scheduling.gang",
        "this version schedules each pod alone, remove gang",
    ),
    "queue": (
        {"spec.scheduling.queueName": "team-a"},
        "spec.scheduling.queueName",
        "this version knows no queues, remove queueName",
    ),
}
