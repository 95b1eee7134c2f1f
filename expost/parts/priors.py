"""A prior for latents of any kind: `prior.otherwise` names the one that takes over where the first cannot model them.

`prior=autoregressive` is the masked network for vectors of real numbers, and otherwise the transformer.
"""

from collections.abc import Iterator
from typing import Any

from expost.base.command import Command
from expost.base.errors import UserError, nearest
from expost.config.build import target_class
from expost.config.schema import Node
from stage1_vae.latents import LatentSpec

OWN = ("_target_", "otherwise")
"""Keys that say which prior it is."""


def suited(node: Node, spec: LatentSpec, offered: dict[str, Node], command: Command) -> Node:
    """The section of the prior that models latents of `spec`: `node`, or what its `otherwise` names.

    What the user has changed in `node` holds for the other one too: what was typed, and what differs from the file.

    Args:
        node: the `prior:` section.
        spec: what one latent is.
        offered: the files in conf/prior, by name.
        command: what was typed.

    Raises:
        UserError: `otherwise` names no prior, or a changed key is one that the other prior does not have.
    """
    name = node.get("otherwise")
    alone = {key: value for key, value in node.items() if key != "otherwise"}
    if name is None or target_class(node).check(spec) is None:
        return alone
    if name not in offered:
        raise UserError(f"prior.otherwise={name}: no such prior; {nearest(str(name), offered)}")
    other = {key: value for key, value in offered[name].items() if key != "otherwise"}
    for path, value in changed(node, offered, command):
        put(other, path, value, name, spec)
    return other


def changed(node: Node, offered: dict[str, Node], command: Command) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys of `node` that are not as its file has them, or that were typed all the same, and their values."""
    files = [dict(leaves(file)) for file in offered.values() if all(file.get(key) == node.get(key) for key in OWN)]
    typed = {word.lstrip("+").split("=")[0] for word in command.overrides}
    for path, value in leaves(node):
        as_filed = any(path in file and file[path] == value for file in files)
        if path[0] not in OWN and (not as_filed or ".".join(("prior", *path)) in typed):
            yield path, value


def leaves(node: Node, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no section, under its path."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def put(node: Node, path: tuple[str, ...], value: Any, name: str, spec: LatentSpec) -> None:
    """Set one key that `node`, the section of the prior `name`, has.

    Raises:
        UserError: it has not.
    """
    *sections, last = path
    for section in sections:
        node = node.get(section, {})
    if last not in node:
        keys = ", ".join(key for key in node if not key.startswith("_"))
        raise UserError(
            f"prior.{'.'.join(path)}: prior={name} models these latents ({spec.words}) and has no such key; "
            f"leave it out (its keys: {keys})"
        )
    node[last] = value
