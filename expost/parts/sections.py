"""Sections of priors, as mappings; among them such as hold sections of other priors.

A key of a prior's section may hold a prior, or a list of priors, each as a section of its own: with wrappers, settings
of its fit, and whatever else is in a file of `conf/prior/`. Where the class names the key in `prior_keys`, a name of
that folder stands for the file, and a section whose key `prior` is such a name for the file with changes:

    members: [gaussian, {prior: mixture, num_components: 100}, {_target_: my_package.MyPrior}]
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from expost.base.errors import UserError, nearest
from expost.config.build import target_class
from expost.config.schema import Node
from stage2_prior.combined.members import Combined
from stage2_prior.prior import Prior, Wrapper

BY_NAME = "prior"
"""Key of a section that stands for a file of `conf/prior/` with changes."""
MOST_CHANGES = 3
OF_NO_TITLE = {"wrap", "otherwise", "conditional", "precision", "members", "max_steps", "max_tokens", "max_iter"}
"""How many of a section's changes a title names, and keys that it leaves out: many of them the limits have written."""


def without(node: Node, keys: tuple[str, ...]) -> Node:
    return {key: value for key, value in node.items() if key not in keys}


def flatten(node: Node, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no section, under its path."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, (*above, key))
        else:
            yield (*above, key), value


def sized(node: Any, num: int) -> Any:
    """A section, and those in it, with `num`, of training latents, for `num_points: null`, which is all of them."""
    if isinstance(node, list):
        return [sized(part, num) for part in node]
    if not isinstance(node, dict):
        return node
    return {key: num if key == "num_points" and value is None else sized(value, num) for key, value in node.items()}


def is_prior(value: Any) -> bool:
    """Whether `value` is the section of a prior, and of none that stands around one."""
    if not isinstance(value, Mapping) or "_target_" not in value:
        return False
    cls = target_class(dict(value))
    return issubclass(cls, Prior) and not issubclass(cls, Wrapper)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` of a key, changed: each by itself where it is a list."""
    return [change(part) for part in value] if isinstance(value, list) else change(value)


def with_held(node: Node, change: Callable[[Node], Any]) -> Node:
    """The section `node` with `change` of every prior section written out in it, and not of those in these."""

    def changed(value: Any) -> Any:
        return change(value) if is_prior(value) else value

    return {key: value if key == "wrap" else mapped(value, changed) for key, value in node.items()}


def held(node: Node) -> list[Node]:
    """The sections of priors that are written out in the section `node`, and not those in these."""
    found: list[Node] = []
    with_held(node, found.append)
    return found


def all_held(node: Node) -> list[Node]:
    """The same with those in these."""
    return [part for inner in held(node) for part in (inner, *all_held(inner))]


def as_before(node: Node) -> Node:
    """The section `node`, and those of priors in it, without what their classes have not always had, where that changes
    nothing: what a key of the store is made of."""
    later = target_class(node).came_later
    kept = {key: value for key, value in node.items() if key not in later or value != later[key]}
    return with_held(kept, as_before)


def written_out(node: Node, offered: Mapping[str, Node]) -> Node:
    """The section `node` with whole sections in place of what only names priors in it; `offered`: those by name.

    Raises:
        UserError: no such prior, or one that has no such key.
    """
    cls = target_class(node)
    keys = cls.prior_keys if issubclass(cls, Prior) else ()
    node = node | {key: mapped(node[key], partial(by_name, f"prior.{key}", offered)) for key in keys if key in node}
    node = handed_down(node) if issubclass(cls, Combined) else node
    return with_held(node, lambda part: written_out(part, offered))


def handed_down(node: Node) -> Node:
    """The section of a combined prior whose members have its wrappers, around their own, and its answer to whether
    labels count: so each is what it would be alone."""
    wrap, labels = node.get("wrap") or [], {"conditional": True} if node.get("conditional") is True else {}

    def given(part: Node) -> Node:
        own = part.get("wrap") or []
        return part | labels | ({"wrap": [*own, *(w for w in wrap if w not in own)]} if wrap else {})

    return with_held(without(node, ("wrap",)), given)


def by_name(key: str, offered: Mapping[str, Node], value: Any) -> Any:
    """What the `value` of the key `key`, or a part of it, stands for: a section, where it names one.

    Raises:
        UserError: as for `written_out`.
    """
    if isinstance(value, str):
        value = {BY_NAME: value}
    if value is None or is_prior(value):
        return value
    if not isinstance(value, Mapping) or BY_NAME not in value:
        raise UserError(
            f"{key}: {value} is no prior; give a name, a name with changes such as "
            "{prior: mixture, num_components: 100}, or a section with a _target_"
        )
    name, changes = value[BY_NAME], without(dict(value), (BY_NAME,))
    if name not in offered:
        raise UserError(f"{key}: {name}: no such prior; {nearest(str(name), offered)}")
    node = offered[name]
    if not is_prior(node):
        raise UserError(f"{key}: {name} is what a VAE learned with itself, which stands alone: prior={name}")
    for path, changed in flatten(changes):
        node = changed_node(node, path, changed, f"{key}: {name}")
    return node


def changed_node(node: Node, path: tuple[str, ...], value: Any, whose: str) -> Node:
    """`node` with another value at `path`.

    Raises:
        UserError: it has no such key.
    """
    first, *rest = path
    if first not in node:
        raise UserError(f"{whose} has no key {first}; {nearest(first, [key for key in node if key[0] != '_'])}")
    if not rest:
        return node | {first: value}
    inner = node[first]
    if not isinstance(inner, dict):
        raise UserError(f"{whose}: {first} is no section")
    return node | {first: changed_node(inner, tuple(rest), value, whose)}


def title_of(node: Node, offered: Mapping[str, Node]) -> str:
    """What to call the prior of a section that is written out: its file, and what differs from that, in words."""
    changes = []
    for name, file in offered.items():
        if file["_target_"] == node["_target_"]:
            filed = {path: value for path, value in flatten(file) if not OF_NO_TITLE.intersection(path)}
            differing = [f"{path[-1]}={new}" for path, new in flatten(node) if filed.get(path, new) != new]
            changes.append((len(differing), name, differing))
    if not changes:
        return str(node["_target_"]).rpartition(".")[2].lower()
    _, name, differing = min(changes)
    return " ".join([name, *differing[:MOST_CHANGES]])
