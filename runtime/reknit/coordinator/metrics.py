"""The job's metrics for Prometheus.

What is true now is read from the membership at every scrape; what adds up is counted from the
records. Labels are bounded: phases, failure classes, ranks.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reknit.coordinator import fleet, progress, recovery
from reknit.coordinator.state import Membership
from reknit.coordinator.view import phase_of
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import Phase
from reknit.protocol.status import EventRecord, MembershipPhase, Record, StepRecord

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STEP_PHASES: Final = ("data", "forward", "backward", "communication", "update", "checkpoint")
STEP_FIGURES: Final = {
    "loss": ("reknit_loss", "Mean loss over the global batch of the latest step."),
    "grad_norm": ("reknit_gradient_norm", "Norm of the whole gradient at the latest step."),
    "learning_rate": ("reknit_learning_rate", "Learning rate of the latest step."),
    "loss_scale": ("reknit_loss_scale", "Loss scale of the latest step under FP16."),
    "sent_bytes": (
        "reknit_sent_bytes",
        "Bytes that a rank sends in a step or round, where communication is reduced.",
    ),
    "plain_bytes": ("reknit_plain_bytes", "Bytes that it would send without that."),
}


class Metrics:
    """One job's registry."""

    def __init__(self, name: str, namespace: str, observe: Callable[[], tuple[Membership, float]]):
        """`observe` gives the membership and the time, for the figures that are true now."""
        self._registry = CollectorRegistry()
        self._registry.register(_Now(name, namespace, observe))
        self._steps = self._histogram("reknit_step_seconds", "Duration of a step.")
        self._split = self._counter(
            "reknit_step_phase_seconds", "Time spent in each part of a step.", "phase"
        )
        self._samples = self._counter("reknit_samples", "Samples of all steps, redone ones too.")
        self._skipped = self._counter("reknit_skipped_steps", "Steps whose update was left out.")
        self._recovery = self._histogram(
            "reknit_recovery_seconds", "From the detection of a fault to the next new step."
        )
        self._phases = Histogram(
            "reknit_recovery_phase_seconds",
            "Parts of a recovery.",
            ["phase"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._sources = self._counter(
            "reknit_recoveries_finished",
            "Recoveries by where the state came from with which training went on.",
            "source",
        )
        self._checkpoints = self._histogram(
            "reknit_checkpoint_seconds", "From the snapshot to a durable checkpoint."
        )
        self._checkpoint_failures = self._counter(
            "reknit_checkpoint_failures", "Checkpoints that could not be written."
        )
        text = "Steps with wrong numbers that were committed without them, by their origin."
        self._wrong_numbers = self._counter("reknit_wrong_numbers", text, "blame")
        self._evaluations = self._counter("reknit_evaluations", "Evaluations on held-out data.")
        for phase in recovery.PHASES:
            self._phases.labels(phase)
        for source in recovery.Source:
            self._sources.labels(source.value)
        for phase in STEP_PHASES:
            self._split.labels(phase)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=SECONDS, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def count(self, record: Record) -> None:
        """Takes a record into what adds up."""
        if isinstance(record, StepRecord):
            self._count_step(record)
        else:
            self._count_event(record)

    def _count_step(self, record: StepRecord) -> None:
        self._samples.inc(record.samples)
        self._skipped.inc(record.skipped)
        if "total" in record.seconds:
            self._steps.observe(record.seconds["total"])
        for phase in STEP_PHASES:
            self._split.labels(phase).inc(max(0.0, record.seconds.get(phase, 0.0)))

    def _count_event(self, record: EventRecord) -> None:
        match record.reason:
            case "RecoveryFinished":
                self._recovery.observe(record.figures["total"])
                for phase in recovery.PHASES:
                    if phase in record.figures:
                        self._phases.labels(phase).observe(record.figures[phase])
                if record.detail is not None:
                    self._sources.labels(record.detail).inc()
            case "Checkpointed":
                self._checkpoints.observe(record.figures["seconds"])
            case "CheckpointFailed":
                self._checkpoint_failures.inc()
            case "Evaluated":
                self._evaluations.inc()
            case "WrongNumbers":
                self._wrong_numbers.labels(record.detail).inc()
            case _:
                pass

    def text(self) -> bytes:
        """What a scrape answers."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is true at the moment of the scrape."""

    def __init__(
        self, name: str, namespace: str, observe: Callable[[], tuple[Membership, float]]
    ) -> None:
        self._labels = (name, namespace)
        self._observe = observe

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are registered without asking for values."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All figures of the moment."""
        state, now = self._observe()
        info = GaugeMetricFamily(
            "reknit_job_info", "The job that this coordinator serves.", labels=["job", "namespace"]
        )
        info.add_metric(self._labels, 1)
        yield info
        yield from _training(state, now)
        yield from _membership(state)
        yield from _totals(state)


def _gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _training(state: Membership, now: float) -> Iterator[Metric]:
    far = progress.progress(state.steps)
    yield from _gauge("reknit_step", "Steps committed in the current generation.", far.step)
    yield from _gauge("reknit_total_steps", "Steps of the whole job.", far.total_steps)
    yield from _gauge("reknit_samples_per_second", "Speed.", far.samples_per_second)
    yield from _gauge("reknit_remaining_seconds", "Estimated time left.", far.remaining_seconds)
    ratio = progress.effective_ratio(state.steps, now)
    text = "Share of the time since the first step that went into steps that were kept."
    yield from _gauge("reknit_effective_training_time_ratio", text, ratio)
    yield from _gauge(
        "reknit_checkpoint_step", "Step of the newest durable checkpoint.", state.checkpoint.step
    )
    last = state.steps.last
    if last is None:
        return
    for figure, (name, text) in STEP_FIGURES.items():
        yield from _gauge(name, text, last.metrics.get(figure))
    memory = {str(rank): float(size) for rank, size in last.memory_bytes.items()}
    text = "Peak resident memory of a rank's process."
    yield _labelled("reknit_rank_memory_bytes", text, "rank", memory)
    slowdown = {str(r): load.ratio for r, load in state.loads.items() if load.ratio is not None}
    text = "Time that a rank computes by itself, against the median of all ranks."
    yield _labelled("reknit_rank_slowdown_ratio", text, "rank", slowdown)


def _membership(state: Membership) -> Iterator[Metric]:
    running = state.current
    generation = running.id if running else None
    yield from _gauge("reknit_incarnation", "Of this coordinator.", state.incarnation)
    text = "Counter of the running generation."
    yield from _gauge("reknit_generation", text, generation.counter if generation else None)
    yield from _gauge("reknit_agents", "Live agents.", len(state.agents))
    yield from _gauge("reknit_agents_expected", "Agents of the job.", state.policy.num_workers)
    ranks = dict.fromkeys((phase.value for phase in Phase), 0.0)
    for member in running.members if running else ():
        ranks[member.phase.value] += 1
    yield _labelled("reknit_ranks", "Ranks by what they are doing.", "phase", ranks)
    if state.policy.num_servers:
        yield from _servers(state)
    phases = {phase.value: float(phase is phase_of(state)) for phase in MembershipPhase}
    yield _labelled("reknit_membership_phase", "1 for where the job stands.", "phase", phases)


def _servers(state: Membership) -> Iterator[Metric]:
    known = state.fleet
    yield from _gauge("reknit_servers", "Parameter servers that live.", len(known.processes))
    protected = sum(fleet.is_protected(known, number) for number in range(len(known.views)))
    numbers = {
        "protected": float(protected),
        "unprotected": float(state.policy.num_servers - protected),
    }
    text = "Ranges of parameters by whether the loss of a server loses nothing of them."
    yield _labelled("reknit_ranges", text, "state", numbers)
    behind = {str(worker): float(clocks) for worker, clocks in fleet.staleness(known).items()}
    text = "Steps that a worker is behind the fastest one, as parameter servers count."
    yield _labelled("reknit_worker_staleness_steps", text, "rank", behind)


def _totals(state: Membership) -> Iterator[Metric]:
    def total(name: str, text: str, value: float) -> Metric:
        return CounterMetricFamily(name, text, value=value)

    yield total("reknit_generations", "Generations begun here.", state.counter)
    yield total("reknit_recoveries", "Generations ended by faults.", state.recoveries.count)
    yield total("reknit_lost_steps", "Committed steps lost by faults.", state.steps.redone)
    yield total("reknit_redone_steps", "Steps computed again.", state.steps.redone)
    failures = CounterMetricFamily(
        "reknit_failures", "Faults that ended a generation, by class.", labels=["class"]
    )
    for exit_class in ExitClass:
        if exit_class is not ExitClass.SUCCEEDED:
            number = state.failures_by_class.get(exit_class, 0)
            failures.add_metric([exit_class.value], number)
    yield failures
