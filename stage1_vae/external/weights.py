"""The tensors of somebody else's model: found, hashed, frozen, compared.

A model is an `nn.Module`, or any object whose attributes are modules, tensors or arrays.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def modules(model: Any) -> dict[str, nn.Module]:
    """Attribute -> module; of a model that is a module, the model itself under the empty name."""
    if isinstance(model, nn.Module):
        return {"": model}
    return {name: value for name, value in _attributes(model).items() if isinstance(value, nn.Module)}


def _attributes(model: Any) -> dict[str, Any]:
    return dict(vars(model)) if hasattr(model, "__dict__") else {}


def tensors(model: Any) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, those included that a `state_dict` leaves out, and plain tensors and
    arrays among the attributes of an object that is no module. None is copied."""
    found: dict[str, Tensor] = {}
    for name, module in modules(model).items():
        named = {**dict(module.named_parameters()), **dict(module.named_buffers()), **module.state_dict()}
        kept = {key: value.detach() for key, value in named.items() if isinstance(value, Tensor)}
        found |= {f"{name}.{key}" if name else key: value for key, value in kept.items()}
    if not isinstance(model, nn.Module):
        for name, value in _attributes(model).items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                found[name] = torch.from_numpy(np.ascontiguousarray(value))
            elif isinstance(value, Tensor):
                found[name] = value.detach()
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
    """Names of the tensors that are no longer what `copies` said."""
    now = tensors(model)
    return [name for name in sorted(before.keys() | now.keys()) if not _same(before.get(name), now.get(name))]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) if one.is_floating_point() else one.equal(other)


def first_of(names: Iterable[str], num: int = 3) -> str:
    """For people: the first `num` names, and how many there are besides."""
    names = list(names)
    rest = f" and {len(names) - num:,} more" if len(names) > num else ""
    return ", ".join(names[:num]) + rest
