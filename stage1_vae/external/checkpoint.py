"""A checkpoint whose module the user names: only tensors are read from it."""

import pickle
from collections.abc import Iterable, Mapping
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
STATES = ("state_dict", "model_state_dict", "model", "params", "net")
RAW_BESIDE_AVERAGES = "current_model_state"
"""Where Lightning's weight averaging keeps the raw weights; those in `state_dict` are then averages."""
AVERAGED_STATES = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "average_model", "params_ema")
AVERAGED_PREFIXES = ("model_ema.", "ema_model.", "ema.", "average_model.", "averaged_model.", "swa_model.")
"""Of averages that lie among the other weights."""


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
            raise ExternalError(f"{named} is a {type(model).__name__}, without load_state_dict: make it an nn.Module")
        wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        state, said = self._state(content, wanted)
        with blaming(f"{self.path.name} into {named}"):
            model.load_state_dict(state, strict=True)
        freeze(model)
        return loaded(
            model, f"{self.path.name} in {named}", sources, (f"{type(model).__name__}, {counted(model)}", *said)
        )

    def _state(self, content: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """What the model is given, and what was taken, in words.

        Raises:
            ExternalError: a tensor is missing, of another shape, or has no place in the module.
        """
        raws, averages = _weights(content)
        takes_average = self.weights == "average" or (self.weights == "auto" and bool(averages))
        chosen, other = (averages, raws) if takes_average else (raws, averages)
        kind = "averaged" if takes_average else "raw"
        if not chosen:
            raise ExternalError(
                f"{self.path} holds no {kind} weights; it holds {first_of(content)}: leave out vae.weights"
            )
        match = Match.best(chosen[0], wanted, self.prefix)
        state, said = match.state, [f"weights of {chosen[0].place}"]
        if other:
            key = "raw" if takes_average else "average"
            said = [f"{kind} weights ({chosen[0].place}); vae.weights={key} takes the others"]
        if takes_average and other:  # often of parameters alone
            borrowed = Match.best(other[0], [name for name in wanted if name not in state], self.prefix).state
            state |= borrowed
            said += [f"{len(borrowed):,} tensors without an average are raw ({first_of(borrowed)})"] if borrowed else []
        self._check(state, wanted, match)
        if match.others and not takes_average:
            groups = sorted({key.partition(".")[0] for key in match.others})
            said.append(f"left out {len(match.others):,} other tensors ({first_of(groups)})")
        return state, said

    def _check(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], match: "Match") -> None:
        if missing := [name for name in wanted if name not in state]:
            raise ExternalError(
                f"{self.path} lacks {len(missing):,} of {len(wanted):,} tensors of the module: {first_of(missing)}; it "
                f"holds {first_of(match.weights.tensors)}: give the module that was trained, or vae.prefix"
            )
        for name, value in wanted.items():
            if state[name].shape != value.shape:
                raise ExternalError(
                    f"{self.path}: {name} is {tuple(state[name].shape)}, the module's is {tuple(value.shape)}: give "
                    "the module as it was trained, vae.arguments={NAME: VALUE}"
                )
        if unknown := match.unknown:
            raise ExternalError(
                f"{self.path} holds {len(unknown):,} tensor(s) that the module has no place for: {first_of(unknown)}; "
                "give the module that was trained, or vae.prefix"
            )


@dataclass(frozen=True)
class Weights:
    """Tensors by their names in a file, and where in it they are."""

    place: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Match:
    """Names of a module found among weights.

    Attributes:
        weights: what was searched.
        prefix: that all names bear in the file.
        keys: name in the module -> name in the file.
    """

    weights: Weights
    prefix: str
    keys: dict[str, str]

    @classmethod
    def best(cls, weights: Weights, names: Iterable[str], prefix: str | None) -> "Match":
        """With the given prefix, or with that under which most names are found.

        Some averages are kept under names without their dots.
        """
        plain = {name: name.replace(COMPILED, "") for name in names}
        longest = max(plain.values(), key=len, default="")
        ends = {longest, longest.replace(".", "")} if longest else set()
        prefixes = {"", *(key.removesuffix(end) for key in weights.tensors for end in ends if key.endswith(end))}
        matches = []
        for start in sorted(prefixes, key=len) if prefix is None else [prefix]:
            spellings = {name: (start + short, start + short.replace(".", "")) for name, short in plain.items()}
            keys = {n: next((k for k in pair if k in weights.tensors), "") for n, pair in spellings.items()}
            matches.append(cls(weights, start, {name: key for name, key in keys.items() if key}))
        return max(matches, key=lambda match: len(match.keys))

    @property
    def state(self) -> dict[str, Tensor]:
        return {name: self.weights.tensors[key] for name, key in self.keys.items()}

    @property
    def others(self) -> list[str]:
        """Names in the file that were not taken."""
        taken = set(self.keys.values())
        return [key for key in self.weights.tensors if key not in taken]

    @property
    def unknown(self) -> list[str]:
        """Those of them that lie inside of the module's own parts."""
        parts = {name.partition(".")[0] for name in self.keys}
        inner = [key.removeprefix(self.prefix) for key in self.others if key.startswith(self.prefix)]
        return [name for name in inner if name.partition(".")[0] in parts]


def _read(path: Path) -> Mapping[str, Any]:
    """
    Raises:
        ExternalError: there is no such file, or it holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise ExternalError(f"vae.path={path}: there is no such file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise ExternalError(f"{path} is no checkpoint that can be read: {str(error).splitlines()[0]}") from error
        raise ExternalError(
            f"{path} holds more than tensors, and what would execute is not run here; where it was trained: "
            'torch.save(torch.load(FILE, weights_only=False)["state_dict"], "weights.pt"), and here vae.path=weights.pt'
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, SafetensorError) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExternalError(f"{path} is no checkpoint that can be read: {words}") from error
    if not isinstance(content, Mapping):
        raise ExternalError(
            f"{path} holds a {type(content).__name__}, and no weights by their names: save a state_dict"
        )
    return content


def _weights(content: Mapping[str, Any]) -> tuple[list[Weights], list[Weights]]:
    """Raw and averaged weights that a file holds, the likeliest first."""
    raws: list[Weights] = []
    averages: list[Weights] = []
    is_averaged = RAW_BESIDE_AVERAGES in content
    for place in (*STATES, RAW_BESIDE_AVERAGES, *AVERAGED_STATES):
        if tensors := _tensors(content.get(place)):
            averaged = place in AVERAGED_STATES or (is_averaged and place == "state_dict")
            (averages if averaged else raws).append(Weights(place, tensors))
    if not raws and not averages and (tensors := _tensors(content)):
        raws.append(Weights("the file", tensors))
    for n, weights in enumerate(list(raws)):
        for prefix in AVERAGED_PREFIXES:
            inner = {key.removeprefix(prefix): v for key, v in weights.tensors.items() if key.startswith(prefix)}
            if inner:
                averages.append(Weights(f"{prefix[:-1]} in {weights.place}", inner))
                raws[n] = Weights(
                    weights.place, {key: v for key, v in weights.tensors.items() if not key.startswith(prefix)}
                )
    return raws, averages


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {key.replace(COMPILED, ""): v for key, v in value.items() if isinstance(v, Tensor) and isinstance(key, str)}
