"""YAML text to plain values, read the way kubectl reads it."""

import re
from typing import Any, Final

import yaml

from reknit_operator.api.problems import ManifestError, Problem

_FLOAT: Final = re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
_INT: Final = re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)$")
_KEY_TAGS: Final = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


class _Loader(yaml.SafeLoader):
    """YAML as in Kubernetes: `3e-4` is a number, dates stay text, a key stands once."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        # Checked here, before merge keys (<<) bring in keys that may rightly stand twice.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in _KEY_TAGS:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {_written(key)} is not text, put it in quotes",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def _written(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else "of several values"


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


_DROPPED: Final = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_document(text: str) -> dict[str, Any]:
    """The one mapping that `text` holds, in YAML or JSON.

    Raises:
        ManifestError: the text is no YAML, or not exactly one mapping; one sentence with the line.
    """
    try:
        documents = [found for found in yaml.load_all(text, Loader=_Loader) if found is not None]
    except yaml.MarkedYAMLError as error:
        raise ManifestError([Problem("", _sentence(error))]) from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError([Problem("", f"the manifest is no YAML: {reason}")]) from None
    if len(documents) != 1:
        found = f"holds {len(documents)} documents" if documents else "is empty"
        raise ManifestError([Problem("", f"the manifest {found}, it must be one job")])
    if not isinstance(documents[0], dict):
        raise ManifestError([Problem("", "the manifest is no mapping of fields to values")])
    return documents[0]


def _sentence(error: yaml.MarkedYAMLError) -> str:
    reason = error.problem or error.context or "it cannot be read"
    if r"'\t'" in reason:
        reason = "a tab cannot indent, use spaces"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"the manifest is no YAML: {reason}"
    return f"line {mark.line + 1}, column {mark.column + 1}: the manifest is no YAML: {reason}"
