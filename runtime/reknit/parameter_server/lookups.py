"""Rows of embeddings, brought from the servers when the model looks them up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from reknit.parameter_server.plan import Plan

Fetch = Callable[[str, torch.Tensor], None]
"""fetch(table, rows): brings these rows of the present version; they ascend, each once."""


class Lookups:
    """Watches the model's sparse embeddings, and has rows fetched before they are read.

    Args:
        model: with the tables of `plan`.
        plan: names the tables.
        fetch: is called within the model's forward pass.
    """

    def __init__(self, model: nn.Module, plan: Plan, fetch: Fetch) -> None:
        self._fetch = fetch
        self._known: dict[str, torch.Tensor] = {}
        """Of each table, which rows are those of the present version."""
        parameters = dict(model.named_parameters())
        tables = {id(parameters[spec.name]): spec.name for spec in plan.specs if spec.is_table}
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) in tables:
                name = tables[id(module.weight)]
                self._known[name] = torch.zeros(module.weight.shape[0], dtype=torch.bool)
                module.register_forward_pre_hook(
                    lambda _, inputs, kwargs, name=name: self._look_up(name, inputs, kwargs),
                    with_kwargs=True,
                )

    def forget(self) -> None:
        """Another version counts from now on: no row is known of it."""
        for known in self._known.values():
            known.zero_()

    def _look_up(self, name: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        indices = inputs[0] if inputs else kwargs["input"]
        rows = torch.unique(indices.detach().cpu().long())
        known = self._known[name]
        missing = rows[~known[rows]]
        if len(missing):
            self._fetch(name, missing)
            known[missing] = True
