"""The settings that a job's pods get, from its manifest."""

from datetime import timedelta
from typing import Final

from reknit.parameter_server.table import Mode
from reknit.protocol.settings import (
    BatchSettings,
    CheckpointSettings,
    CommunicationSettings,
    JobSettings,
    NumberSettings,
    RecoverySettings,
    RoundSettings,
    ServerSettings,
)
from reknit_operator.api.communication import DEFAULT_POWER_SGD_RANK, Communication
from reknit_operator.api.types import DistributedTrainingJob, JobSpec
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import CHECKPOINT_MOUNT

DEFAULT_GRACE: Final = timedelta(seconds=30)


def grace_period(spec: JobSpec) -> timedelta:
    """What a training pod gets between SIGTERM and SIGKILL: the template's word, else 30 s."""
    extra = spec.workers.template.spec.model_extra or {}
    seconds = extra.get("terminationGracePeriodSeconds")
    return timedelta(seconds=seconds) if isinstance(seconds, int) else DEFAULT_GRACE


def job_settings(job: DistributedTrainingJob, options: BuildOptions) -> JobSettings:
    """What coordinator, agents and ranks of `job` need to know of it."""
    spec = job.spec
    return JobSettings(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        uid=job.metadata.uid,
        function=spec.entrypoint.function,
        command=spec.entrypoint.command,
        config=spec.entrypoint.config,
        framework=spec.framework,
        degrees=spec.parallelism.degrees,
        sharding=spec.parallelism.sharding,
        pipeline=spec.parallelism.pipeline.settings,
        batch=spec.batch
        and BatchSettings(global_batch=spec.batch.global_batch, micro=spec.batch.micro),
        precision=spec.precision,
        seed=spec.seed,
        num_workers=spec.workers.replicas,
        min_workers=spec.workers.fewest_replicas,
        processes_per_worker=spec.workers.processes_per_replica,
        num_spares=spec.spares.replicas,
        deepspeed_config=spec.deepspeed.config,
        communication=communication_settings(spec.communication),
        recovery=RecoverySettings(
            copies=spec.recovery.copies,
            on_loss=spec.recovery.on_loss,
            grace_seconds=grace_period(spec).total_seconds(),
            process_failures=spec.recovery.process_budget.failures,
            process_failure_window_seconds=spec.recovery.process_budget.per.total_seconds(),
        ),
        numbers=NumberSettings(
            outlier_factor=spec.recovery.wrong_numbers.outlier_factor,
            on_bad_data=spec.recovery.wrong_numbers.on_bad_data,
        ),
        checkpoint=checkpoint_settings(spec, options),
        servers=_server_settings(spec),
    )


def _server_settings(spec: JobSpec) -> ServerSettings | None:
    servers = spec.parameter_servers
    if servers is None:
        return None
    return ServerSettings(
        num_servers=servers.replicas,
        copies=servers.copies,
        mode=Mode(servers.consistency, servers.max_staleness or 0),
        compression=servers.compression,
    )


def communication_settings(communication: Communication) -> CommunicationSettings:
    """How much the ranks tell each other, with percentages as numbers."""
    rounds = communication.rounds
    return CommunicationSettings(
        compression=communication.compression,
        power_sgd_rank=communication.power_sgd_rank or DEFAULT_POWER_SGD_RANK,
        rounds=rounds
        and RoundSettings(
            local_steps=rounds.local_steps,
            outer_learning_rate=rounds.learning_rate_percent / 100,
            outer_momentum=rounds.momentum_percent / 100,
            worker_state=rounds.worker_state,
            clients_per_round=rounds.clients_per_round,
        ),
    )


def checkpoint_settings(spec: JobSpec, options: BuildOptions) -> CheckpointSettings | None:
    """Where checkpoints go and when; None where there is no place that outlasts a pod."""
    path = options.checkpoint_root
    if path is None:
        if spec.checkpoint.volume is None:
            return None
        path = CHECKPOINT_MOUNT
    every = spec.checkpoint.every
    return CheckpointSettings(
        path=path,
        every_seconds=None if every is None else every.total_seconds(),
        every_steps=spec.checkpoint.every_steps,
        keep=spec.checkpoint.keep,
    )
