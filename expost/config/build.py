"""From a configuration node with a `_target_` to an object, checked before anything is made."""

import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from expost.base.errors import UserError, nearest
from expost.config.schema import Node
from expost.config.sources import own_sources

NO_MEMORY = re.compile(r"tried to allocate (\d+) bytes")
"""Of torch, where it allocates on a CPU."""


def target_class(node: Node) -> Any:
    """The class that `node["_target_"]` names.

    Raises:
        UserError: when there is no such class.
    """
    try:
        module, _, name = str(node["_target_"]).rpartition(".")
        found = getattr(importlib.import_module(module), name)
        if not isinstance(found, type):
            raise TypeError(f"{name} is a {type(found).__name__}")
        return found
    except (ImportError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"_target_={node.get('_target_')}: no such class ({reason})") from error


def build(group: str, node: Node, **injected: Any) -> Any:
    """Make the object of `node`; `group` is its place in the configuration, for messages.

    Raises:
        UserError: unknown keys, values of a wrong type, and whatever the constructor itself refuses.
    """
    return construct(group, target_class(node), {k: v for k, v in node.items() if k != "_target_"}, **injected)


def construct(group: str, cls: Any, given: Node, **injected: Any) -> Any:
    """An object of `cls` from the keywords `given`, checked against its constructor, and `injected`.

    Raises:
        UserError: as for `build`.
    """
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(cls).parameters
    parameters = {name: p for name, p in signature.items() if name not in injected and p.kind not in variadic}
    for key in given:
        if key not in parameters:
            raise UserError(f"{group}.{key}: unknown key; {nearest(key, parameters)}")
    for key, parameter in parameters.items():
        if key not in given and parameter.default is inspect.Parameter.empty:
            raise UserError(f"{group}.{key} is missing")
    hints = get_type_hints(cls.__init__)
    checked = {key: _convert(f"{group}.{key}", value, hints.get(key)) for key, value in given.items()}
    with refusing(group):
        return cls(**checked, **injected)


@contextmanager
def refusing(group: str) -> Iterator[None]:
    """What constructors say of a mistake, and torch of a size that no memory holds, becomes the one line.

    Raises:
        UserError: in place of it.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error).splitlines()[0]) from error
    except RuntimeError as error:
        if not (allocation := NO_MEMORY.search(str(error))):
            raise
        size = int(allocation.group(1)) / 2**30
        raise UserError(f"{group}: no memory for a tensor of {size:,.0f} GiB; make it smaller") from error


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the annotation `hint` wants it."""
    if hint is None:
        return value
    try:
        config = None if is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)  # a section has its own
        adapter = TypeAdapter(hint, config=config)
    except PydanticSchemaGenerationError:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].replace("an instance of Sequence", "a list, such as [256,256]")
        raise UserError(f"{key}={value}: {message[0].lower()}{message[1:]}") from error


def version(node: Node) -> int:
    """The algorithm version of the class that `node` names."""
    return int(getattr(target_class(node), "version", 1))


def versions(nodes: list[Node]) -> dict[str, int]:
    return {node["_target_"]: version(node) for node in nodes}


def origins(nodes: list[Node]) -> dict[str, Any]:
    """The same for keys in the store: with the fits of priors that have changed since the first, and the source of
    every class that is not as it was shipped."""
    fits = {f"fit of {node['_target_']}": fit_version(node) for node in nodes}
    sources = {f"source of {node['_target_']}": own_sources(target_class(node)) for node in nodes}
    changed = {name: number for name, number in fits.items() if number > 1}
    return versions(nodes) | changed | {name: sha256 for name, sha256 in sources.items() if sha256 is not None}


def fit_version(node: Node) -> int:
    """The version of what a fit of the prior that `node` names ends with; 1 of all else."""
    own = getattr(target_class(node), "fit_version", None)
    return 1 if own is None else int(own(node))
