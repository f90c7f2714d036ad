"""Between a model in a worker and the ranges: gradients out, weights in."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from reknit.job import unique_parameters
from reknit.parameter_server.compression import compress
from reknit.parameter_server.formats import Compression
from reknit.parameter_server.plan import ParameterSpec, Plan, plan_ranges
from reknit.parameter_server.rows import combine
from reknit.parameter_server.tensors import DENSE, Content


def specs_of(model: nn.Module) -> list[ParameterSpec]:
    """The trainable parameters, tied ones once; embeddings with `sparse=True` are tables."""
    tables = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        ParameterSpec(names[id(parameter)], tuple(parameter.shape), id(parameter) in tables)
        for parameter in unique_parameters(model.parameters())
    ]


class Binding:
    """A model whose parameters are kept by servers.

    Args:
        model: its trainable parameters are overwritten by `install`.
        num_ranges: how many ranges it is cut into.
        compression: the format in which gradients travel.
    """

    def __init__(
        self, model: nn.Module, num_ranges: int, compression: Compression = Compression.NONE
    ) -> None:
        self.plan: Plan = plan_ranges(specs_of(model), num_ranges)
        self._parameters = unique_parameters(model.parameters())
        self._compression = compression

    def wishes(
        self, rows: Mapping[str, torch.Tensor] | None = None, *, dense: bool = True
    ) -> list[Content]:
        """Asks for all dense parameters, unless not `dense`, and of tables, by name, for rows."""
        rows = rows or {}
        unique = {name: torch.unique(indices.detach().cpu()) for name, indices in rows.items()}
        wishes: list[Content] = []
        for part in self.plan.ranges:
            wish = {DENSE: torch.empty(0)} if dense else {}
            for table in part.tables:
                indices = unique.get(self.plan.specs[table.index].name)
                if indices is not None:
                    inside = _inside(indices, table.rows.start, table.rows.stop)
                    wish[f"rows/{table.index}"] = indices[inside]
            wishes.append(wish)
        return wishes

    def install(self, wishes: Sequence[Content], weights: Sequence[Content]) -> None:
        """Writes what was pulled into the model; other rows of tables stay as they are."""
        with torch.no_grad():
            for part, wish, found in zip(self.plan.ranges, wishes, weights, strict=True):
                for piece in part.dense if DENSE in wish else ():
                    flat = self._parameters[piece.index].view(-1)
                    source = found[DENSE][piece.offset : piece.offset + len(piece.interval)]
                    flat[piece.interval.start : piece.interval.stop].copy_(source)
                for table in part.tables:
                    rows = wish.get(f"rows/{table.index}")
                    if rows is not None:
                        parameter = self._parameters[table.index]
                        values = found[f"values/{table.index}"].to(parameter)
                        parameter[rows.to(parameter.device)] = values

    def gradients(self) -> list[Content]:
        """The model's gradients in new memory, rows of tables summed by index.

        A parameter without a gradient counts as one whose gradient is zero.
        """
        touched = {
            index: self._rows(index) for index, spec in enumerate(self.plan.specs) if spec.is_table
        }
        contents: list[Content] = []
        for part in self.plan.ranges:
            dense = compress(torch.zeros(len(part.stretch)), self._compression)
            for piece in part.dense:
                gradient = self._parameters[piece.index].grad
                if gradient is not None:
                    source = gradient.detach().view(-1)
                    source = source[piece.interval.start : piece.interval.stop]
                    dense[piece.offset : piece.offset + len(piece.interval)].copy_(source)
            content = {DENSE: dense}
            for table in part.tables:
                rows, values = touched[table.index]
                inside = _inside(rows, table.rows.start, table.rows.stop)
                content[f"rows/{table.index}"] = rows[inside]
                content[f"values/{table.index}"] = compress(values[inside], self._compression)
            contents.append(content)
        return contents

    def _rows(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        parameter = self._parameters[index]
        gradient = parameter.grad
        if gradient is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, parameter.shape[1])
        if not gradient.is_sparse:
            rows = gradient.abs().sum(1).nonzero().view(-1).cpu()
            return rows, gradient.detach()[rows.to(gradient.device)].cpu().float()
        indices = gradient.detach()._indices()[0].cpu()  # noqa: SLF001 - combine adds in order
        return combine([(indices, gradient.detach()._values().cpu())])  # noqa: SLF001 - as above


def _inside(ascending: torch.Tensor, start: int, stop: int) -> slice:
    bounds = torch.searchsorted(ascending, torch.tensor([start, stop]))
    return slice(int(bounds[0]), int(bounds[1]))
