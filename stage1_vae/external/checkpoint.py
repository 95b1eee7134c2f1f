"""A checkpoint whose module the user names: only tensors are read from it."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stage1_vae.external.errors import ExternalError, blaming
from stage1_vae.external.module import Module, build, loaded
from stage1_vae.external.source import Loaded, counted
from stage1_vae.external.weights import first_of, freeze

COMPILED = "_orig_mod."
RAW_STATES = ("current_model_state",)
"""Where Lightning's weight averaging keeps the raw weights; those in `state_dict` are then averages."""
AVERAGED_STATES = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "average_model", "params_ema")
STATES = ("state_dict", "model_state_dict", "model", "params", "net")
AVERAGES = ("model_ema.", "ema_model.", "ema.", "average_model.", "averaged_model.", "swa_model.")
"""Prefixes of averaged weights among the others."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Module):
    """`vae=checkpoint vae.path=FILE.ckpt vae.module=FILE.py:NAME`.

    Attributes:
        path: of Lightning, of `torch.save`, or .safetensors.
        prefix: of the model's weights in the file; None: found out.
        weights: which, where averaged ones lie beside the raw ones; "auto": the averaged.
    """

    path: Path | None = None
    prefix: str | None = None
    weights: Literal["auto", "raw", "average"] = "auto"

    def load(self) -> Loaded:
        if self.path is None:
            raise ExternalError("vae.path is missing: give the checkpoint, vae.path=FILE.ckpt")
        content = _read(self.path.expanduser())
        model, named, sources = build(self.module, self.arguments, "vae.module")
        if not all(callable(getattr(model, name, None)) for name in ("state_dict", "load_state_dict")):
            raise ExternalError(
                f"{named} is a {type(model).__name__}, which has no load_state_dict: make it an nn.Module"
            )
        wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        state, said = self._state(content, wanted)
        with blaming(f"{self.path.name} into {named}"):
            model.load_state_dict(state, strict=True)
        freeze(model)
        return loaded(
            model, f"{self.path.name} in {named}", sources, (f"{type(model).__name__}, {counted(model)}", *said)
        )

    def _state(self, content: Mapping[str, Any], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """What the model is given, and what was taken, in words."""
        candidates = _candidates(content)
        averages = [entry for entry in candidates if entry[1]]
        raws = [entry for entry in candidates if not entry[1]]
        chosen = raws if self.weights == "raw" or (self.weights == "auto" and not averages) else averages
        if not chosen:
            kind = "averaged" if self.weights == "average" else "raw"
            raise ExternalError(
                f"{self.path} holds no {kind} weights that are told as such; it holds {first_of(content)}: leave out "
                "vae.weights"
            )
        raw = _matched(raws[0][2], wanted, self.prefix) if raws else {}
        name, is_average, tensors = chosen[0]
        state = _matched(tensors, wanted, self.prefix)
        said = []
        if is_average and raws:  # averages of parameters alone leave the buffers to the raw weights
            borrowed = [key for key in wanted if key not in state and key in raw]
            state = {**{key: raw[key] for key in borrowed}, **state}
            said.append(f"averaged weights ({name})" + (f", but raw {first_of(borrowed)}" if borrowed else ""))
            said[-1] += "; vae.weights=raw takes the others"
        elif averages or is_average:
            said.append(f"raw weights ({name}); vae.weights=average takes the others" if averages else name)
        else:
            said.append(f"weights of {name}")
        self._check(state, wanted, tensors)
        rest = len(tensors) - len(state)
        if not is_average and rest > 0:
            groups = sorted({key.partition(".")[0] for key in tensors if not _is_taken(key, state)})
            said.append(f"left out {rest:,} other tensors ({first_of(groups)})")
        return state, said

    def _check(self, state: dict[str, Tensor], wanted: dict[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        missing = [key for key in wanted if key not in state]
        if missing:
            raise ExternalError(
                f"{self.path} lacks {len(missing):,} of {len(wanted):,} tensors of the module: {first_of(missing)}; it "
                f"holds {first_of(tensors)}: give the module that was trained, or vae.prefix"
            )
        for key, value in wanted.items():
            if state[key].shape != value.shape:
                raise ExternalError(
                    f"{self.path}: {key} is {tuple(state[key].shape)}, the module's is {tuple(value.shape)}: give the "
                    "module as it was trained, vae.arguments={NAME: VALUE}"
                )


def _read(path: Path) -> Mapping[str, Any]:
    """
    Raises:
        ExternalError: there is no such file, or it holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise ExternalError(f"vae.path={path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = str(error).partition("GLOBAL ")[2].split(" ")[0] or "objects"
        raise ExternalError(
            f"{path} holds more than tensors ({kind}), and what it holds is not run here; where it was trained: "
            'torch.save(torch.load(FILE, weights_only=False)["state_dict"], "weights.pt"), and vae.path=weights.pt'
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise ExternalError(f"{path} is no checkpoint that can be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Mapping):
        raise ExternalError(
            f"{path} holds a {type(content).__name__}, and no weights by their names: save a state_dict"
        )
    return content


def _candidates(content: Mapping[str, Any]) -> list[tuple[str, bool, dict[str, Tensor]]]:
    """Weights by their names that a file holds: where, whether they are averages, and they."""
    found: list[tuple[str, bool, dict[str, Tensor]]] = []
    is_averaged = any(name in content for name in RAW_STATES)
    for name in (*STATES, *RAW_STATES, *AVERAGED_STATES):
        tensors = _tensors(content.get(name))
        if tensors:
            average = name in AVERAGED_STATES or (is_averaged and name == "state_dict")
            found.append((name, average, tensors))
    if not found and (tensors := _tensors(content)):
        found.append(("the file", False, tensors))
    for name, average, tensors in list(found):
        for prefix in () if average else AVERAGES:
            inner = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
            if inner:
                found.append((f"{prefix[:-1]} in {name}", True, inner))
                raw = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
                found[found.index((name, average, tensors))] = (name, average, raw)
    return found


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {key.replace(COMPILED, ""): v for key, v in value.items() if isinstance(v, Tensor) and isinstance(key, str)}


def _matched(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """Those of the wanted names, under the prefix under which most of them are found."""
    plain = {name.replace(COMPILED, ""): name for name in wanted}
    if prefix is None:
        longest = max(plain, key=len, default="")
        ends = [
            key[: -len(name)] for name in (longest, longest.replace(".", "")) for key in tensors if key.endswith(name)
        ]
        prefixes = list(dict.fromkeys(["", "model.", "vae.", "module.", *ends]))
        prefix = max(prefixes, key=lambda p: sum(_key(p, name, tensors) is not None for name in plain))
    matched = {}
    for name, original in plain.items():
        if (key := _key(prefix, name, tensors)) is not None:
            matched[original] = tensors[key]
    return matched


def _key(prefix: str, name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The name in a file; averages are also kept under names without their dots."""
    for key in (prefix + name, prefix + name.replace(".", ""), prefix.replace(".", "") + name.replace(".", "")):
        if key in tensors:
            return key
    return None


def _is_taken(key: str, state: Mapping[str, Tensor]) -> bool:
    return any(key.endswith(name) for name in state)
