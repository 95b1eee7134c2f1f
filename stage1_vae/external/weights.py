"""The tensors of somebody else's model: found, hashed, frozen, compared.

A model is an `nn.Module`, or any object. Modules, tensors and arrays are looked for among its attributes, in lists and
dictionaries of them, and in what its two methods refer to; of a module that is the user's own code, those too that
`nn.Module` knows nothing of. What autograd has computed is no weight: a loss that was left behind, say.
"""

import functools
import hashlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stage1_vae.external.own import is_own

DEEPEST = 4
"""Objects within objects, as far as they are looked into."""
OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that any module has."""
Number = bool | int | float


def modules(model: Any) -> dict[str, nn.Module]:
    """Where it is -> module; of a model that is a module, the model itself under the empty name."""
    return {name: value for name, value in _found(model).items() if isinstance(value, nn.Module)}


def _found(model: Any) -> dict[str, Any]:
    """Where it is -> module, tensor or array; not what lies in a module that was found."""
    found: dict[str, Any] = {}
    known: set[int] = set()
    for name, value in _walk("", model, DEEPEST, set()):
        if isinstance(value, Number) or id(value) in known:
            continue
        known.add(id(value))
        if isinstance(value, nn.Module):
            known.update(map(id, (*value.modules(), *value.parameters(), *value.buffers())))
        found.setdefault(name, value)
    return found


def numbers(model: Any) -> dict[str, Number]:
    """Where it is -> a number that the model computes with, such as a scale that was read from a file."""
    return {name: value for name, value in _walk("", model, DEEPEST, set()) if isinstance(value, Number)}


def _walk(place: str, value: Any, depth: int, known: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (nn.Module, np.ndarray, Number)) or (isinstance(value, Tensor) and value.is_leaf):
        yield place, value
    if depth == 0 or id(value) in known or isinstance(value, (Tensor, np.ndarray, str, bytes, Number)):
        return
    known.add(id(value))
    for name, inner in _inside(value, is_top=place == ""):
        yield from _walk(f"{place}.{name}".strip("."), inner, depth - 1, known)


def _inside(value: Any, is_top: bool) -> Iterator[tuple[str, Any]]:
    """What a value holds, or refers to where it is code of the user's."""
    if isinstance(value, (list, tuple)):
        yield from ((str(n), inner) for n, inner in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((str(key), inner) for key, inner in value.items())
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif isinstance(value, types.FunctionType):
        if not is_own(Path(value.__code__.co_filename)):
            return
        yield from zip(value.__code__.co_freevars, map(_content, value.__closure__ or ()), strict=True)
        referred = ((name, value.__globals__.get(name)) for name in value.__code__.co_names)
        yield from ((name, inner) for name, inner in referred if not isinstance(inner, (type, types.ModuleType)))
    elif isinstance(value, nn.Module):
        for place, part in value.named_modules():
            if _is_of_own_class(part):
                yield from ((f"{place}.{name}", inner) for name, inner in vars(part).items() if name not in OF_TORCH)
        yield from ((name, getattr(type(value), name, None)) for name in ("encode", "decode") if is_top)
    elif not isinstance(value, (type, types.ModuleType)) and hasattr(value, "__dict__"):
        yield from vars(value).items()
        yield from ((name, getattr(type(value), name, None)) for name in ("encode", "decode") if is_top)


def _is_of_own_class(value: Any) -> bool:
    source = sys.modules.get(type(value).__module__)
    return is_own(Path(getattr(source, "__file__", None) or "/"))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def tensors(model: Any) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, in a `state_dict` or not, and what lies in no module; none is copied."""
    found: dict[str, Tensor] = {}
    for place, value in _found(model).items():
        if isinstance(value, nn.Module):
            named = {**dict(value.named_parameters()), **dict(value.named_buffers()), **value.state_dict()}
            kept = {key: inner.detach() for key, inner in named.items() if isinstance(inner, Tensor)}
            found |= {f"{place}.{key}" if place else key: inner for key, inner in kept.items()}
        elif isinstance(value, Tensor):
            found[place] = value.detach()
        elif value.dtype.kind in "biuf":
            found[place] = torch.from_numpy(np.ascontiguousarray(value))
    return found


def sha256(named: Mapping[str, Tensor], texts: Iterable[bytes] = ()) -> str:
    """Over name, type, shape and bytes of every tensor, in the order of their names, and over `texts` in theirs."""
    digest = hashlib.sha256()
    for name in sorted(named):
        value = named[name]
        digest.update(f"{name}\0{value.dtype}{tuple(value.shape)}\0".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for text in texts:
        digest.update(f"{len(text)}\0".encode() + text)
    return digest.hexdigest()


def freeze(model: Any) -> None:
    """Evaluation mode and no gradients, in every module of it."""
    for module in modules(model).values():
        module.eval()
        module.requires_grad_(False)


def copies(model: Any) -> dict[str, Tensor]:
    """`tensors`, cloned: what they are now."""
    return {name: value.clone() for name, value in tensors(model).items()}


def moved(model: Any, before: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are no longer what `copies` said; what has come since is none, such as a cache."""
    now = tensors(model)
    return [name for name, value in sorted(before.items()) if not _same(value, now.get(name))]


def _same(one: Tensor, other: Tensor | None) -> bool:
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) if one.is_floating_point() else one.equal(other)


def first_of(names: Iterable[str], num: int = 3) -> str:
    """For people: the first `num` names, and how many there are besides."""
    names = list(names)
    rest = f" and {len(names) - num:,} more" if len(names) > num else ""
    return ", ".join(names[:num]) + rest
