"""The life of a parameter server: the user's function up to `job.engine`, and then its ranges."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import Final

import torch

from reknit import userfunction
from reknit.arguments import check_engine_arguments
from reknit.checkpoint.reader import Rejected, examine, open_checkpoint
from reknit.cuts import TensorPlan
from reknit.errors import ConfigurationError, StoppedError
from reknit.job import (
    Batch,
    Collate,
    Dataset,
    Engine,
    Job,
    Loss,
    ModelFactory,
    OptimizerFactory,
    ScheduleFactory,
    Transform,
)
from reknit.parameter_server.binding import specs_of
from reknit.parameter_server.plan import Plan, plan_ranges
from reknit.parameter_server.refusals import NO_RANK
from reknit.parameter_server.server import Server
from reknit.parameter_server.state import new_range
from reknit.parameter_server.table import Restored
from reknit.parameter_server.tensors import RangeTensors
from reknit.protocol.base import Generation, Json
from reknit.protocol.outcome import AGENT_EXIT_CODES
from reknit.protocol.ranks import Failed, Parked
from reknit.protocol.servers import Leases, RangeReport, Serving, Views
from reknit.protocol.settings import (
    ENV_POD_IP,
    ENV_POD_NAME,
    ENV_SERVER_TOKEN,
    JobSettings,
)
from reknit.rank.channel import Channel
from reknit.rank.failure import report
from reknit.state.intervals import Interval
from reknit.strategies.base import Recipe, build
from reknit.strategies.served import check_recipe, max_frame_bytes
from reknit.trainer.errors import CheckpointError

_CPU: Final = torch.device("cpu")


def serve(settings: JobSettings, channel: socket.socket) -> int:
    """Runs a parameter server; returns the process's exit status.

    0: released. 1: an exception of the user's code, or the agent is gone; 2: a wrong configuration.
    """
    link = Channel(channel, heartbeat=timedelta(seconds=settings.recovery.heartbeat_seconds))
    link.start()
    try:
        assert settings.function is not None, "commands have no parameter servers"
        function = userfunction.resolve(settings.function)
        function.call(ServerJob(settings, link), function.build_config(settings.config))
        raise ConfigurationError(
            "spec.entrypoint.function: it returns without calling job.engine, so there is nothing "
            "to serve"
        )
    except StoppedError:
        link.close()
        return 0 if link.released else 1
    except BaseException as error:  # also SystemExit must reach the agent with its traceback
        described = report(error, None)
        link.tell(Failed(generation=Generation(incarnation=0, counter=0), error=described))
        link.close()
        return AGENT_EXIT_CODES[described.exit_class]


class ServerJob(Job):
    """What the user's function is given on a parameter server; `engine` does not return."""

    def __init__(self, settings: JobSettings, link: Channel) -> None:
        self.seed = settings.seed
        self.state: dict[str, Json] = {}
        self._settings, self._link = settings, link

    @property
    def rank(self) -> int:
        """A server has none."""
        raise ConfigurationError(NO_RANK)

    @property
    def world_size(self) -> int:
        """Ranks of the full job."""
        return self._settings.world_size

    @property
    def device(self) -> torch.device:
        """Servers work on the CPU."""
        return _CPU

    def engine(
        self,
        *,
        model: ModelFactory,
        optimizer: OptimizerFactory,
        loss: Loss,
        schedule: ScheduleFactory | None = None,
        clip_grad_norm: float | None = None,
        pretrained: str | PathLike[str] | None = None,
        tensor_plan: TensorPlan | None = None,
    ) -> Engine:
        """Serves the parameters until the job is over.

        Raises:
            ConfigurationError: this model cannot be trained with servers.
            StoppedError: there is nothing left to do.
        """
        check_engine_arguments(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
        )
        recipe = Recipe(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
            pretrained=pretrained,
            tensor_plan=tensor_plan,
        )
        asyncio.run(_Service(self._settings, self._link, recipe).run())
        raise StoppedError(None)

    def batches(
        self,
        dataset: Dataset,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        shuffle: bool = True,
        clients: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """Needs an engine first, as everywhere."""
        del dataset, steps, epochs, transform, collate, shuffle, clients
        raise ConfigurationError("job.batches: call job.engine first")

    def log(self, **metrics: float) -> None:
        """There is no step whose figures these could be."""


class _Service:
    """The ranges that the coordinator gives this process, behind one `Server`."""

    def __init__(self, settings: JobSettings, link: Channel, recipe: Recipe) -> None:
        assert settings.servers is not None
        self._settings, self._servers, self._link = settings, settings.servers, link
        self._recipe = recipe
        specs = specs_of(build(recipe, seed=settings.seed, device=_CPU).model)
        check_recipe(recipe, specs)
        self._plan: Plan = plan_ranges(specs, self._servers.num_servers)
        self._name = f"{os.environ[ENV_POD_NAME]}.{os.getpid()}.{token_hex(3)}"

    async def run(self) -> None:
        """Serves until the agent says that it is over, or is gone."""
        loop = asyncio.get_running_loop()
        self._server = Server(
            self._name,
            token=os.environ[ENV_SERVER_TOKEN],
            max_frame_bytes=max_frame_bytes(self._plan),
            restore=self._restore,
        )
        host = os.environ[ENV_POD_IP]
        self._address = f"{host}:{self._server.start(host)}"
        self._link.tell(Parked())
        self._link.follow(_safely(loop, self._hear))
        tasks = [
            asyncio.create_task(self._server.run()),
            asyncio.create_task(self._report()),
            asyncio.create_task(asyncio.to_thread(self._link.wait_for_end)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._link.follow(lambda _: None)
            for task in tasks[:2]:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self._server.close()

    async def _report(self) -> None:
        """Says where and how this server is, and asks for leases by that."""
        while True:
            asked_at = self._server.clock()
            ranges = {number: self._describe(number) for number in self._server.numbers}
            self._link.tell(
                Serving(
                    name=self._name,
                    address=self._address,
                    asked_at=asked_at,
                    ranges=ranges,
                    figures=self._server.metrics(),
                )
            )
            await asyncio.sleep(self._settings.recovery.heartbeat_seconds)

    def _describe(self, number: int) -> RangeReport:
        status = self._server.status(number)
        return RangeReport(
            number=status.number,
            is_primary=status.is_primary,
            complete=status.complete,
            protected=status.protected,
            version=status.version,
            clocks_behind=dict(status.clocks_behind),
            backup_silent_seconds=status.backup_silent_seconds,
        )

    def _hear(self, message: Views | Leases) -> None:
        if isinstance(message, Views):
            for number, view in enumerate(message.ranges):
                if self._name in (view.primary, view.backup):
                    self._hold(number)
                    self._server.see(number, view, message.addresses)
                elif number in self._server.numbers:
                    self._server.drop(number)
        elif message.name == self._name:
            for number, view_number in message.ranges.items():
                if number in self._server.numbers:
                    self._server.renew(number, view_number, message.asked_at + message.seconds)

    def _hold(self, number: int) -> None:
        if number in self._server.numbers:
            return
        tensors = RangeTensors(
            self._plan,
            number,
            self._recipe.optimizer,
            keeps_previous=self._servers.mode.is_synchronous,
            schedule=self._recipe.schedule,
        )
        self._server.hold(number, new_range(self._name, self._servers.mode), tensors)

    def _restore(self, tensors: RangeTensors, entry: Restored) -> None:
        """Reads a range from a checkpoint, or makes it as the model begins."""
        if not entry.source:
            model = build(self._recipe, seed=self._settings.seed, device=_CPU).model
            initial = dict(model.named_parameters())

            def read(name: str, elements: Interval) -> torch.Tensor:
                return initial[name].detach().view(-1)[elements.start : elements.stop]

            tensors.read(read)
            return
        assert self._settings.checkpoint is not None
        folder = Path(self._settings.checkpoint.path, entry.source)
        found = examine(folder, verify_contents=False)
        if isinstance(found, Rejected):
            raise CheckpointError(f"the checkpoint {folder} cannot be read: {found.reason}")
        with open_checkpoint(found) as opened:
            tensors.restore(opened)


def _safely(
    loop: asyncio.AbstractEventLoop, hear: Callable[[Views | Leases], None]
) -> Callable[[Views | Leases], None]:
    """`hear` in the loop's thread, whichever thread calls."""

    def call(message: Views | Leases) -> None:
        loop.call_soon_threadsafe(hear, message)

    return call
