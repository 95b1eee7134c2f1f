"""A model of the user's own code: run because the user named it, and never loaded from an artifact."""

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from stage1_vae.external.errors import ExternalError, blaming
from stage1_vae.external.own import is_own
from stage1_vae.external.pretrained import CLASSES, Folded
from stage1_vae.external.source import ExternalSource, Loaded, counted
from stage1_vae.external.weights import freeze, modules, numbers, sha256, tensors

OURS = ("stage1_vae", "stage2_prior", "expost")
_BROUGHT: set[str] = set()
"""Modules that an import of a user's file has brought along from its folder; a later one reads them anew."""


@dataclass(frozen=True, kw_only=True)
class Module(ExternalSource):
    """`vae=module vae.module=FILE.py:NAME` or `package.module:NAME`.

    Attributes:
        module: names a callable (a function, a class) that returns the model, or the model.
        arguments: what the callable is given.
    """

    module: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Loaded:
        model, named, sources = build(self.module, self.arguments, "vae.module")
        freeze(model)
        return loaded(model, named, sources, (f"{type(model).__name__}, {counted(model)}",))

    def ingredients(self, loaded: Loaded) -> dict[str, Any]:
        name = (self.module or "").rpartition(":")[2]
        return super().ingredients(loaded) | {"name": name, "arguments": self.arguments}


@dataclass(frozen=True, kw_only=True)
class Given(ExternalSource):
    """A model that is there already: an object with `encode(x)` and `decode(z)`, or a model of diffusers.

    Attributes:
        model: the object.
        folded: it is a model of diffusers, whose scale and shift are folded in.
    """

    model: Any
    folded: bool = False

    def load(self) -> Loaded:
        """
        Raises:
            ExternalError: a model of diffusers that is none of those that are known.
        """
        fold: Callable[[Any], Any] | None = CLASSES.get(type(self.model).__name__) if self.folded else None
        model = self.model if fold is None else fold(self.model)
        freeze(model)
        return loaded(model, type(self.model).__name__, [], (f"{type(self.model).__name__}, {counted(model)}",))

    def stride(self, model: Any) -> int:
        return int(model.stride) if isinstance(model, Folded) else 1


def loaded(model: Any, name: str, sources: list[bytes], said: tuple[str, ...]) -> Loaded:
    """A model with the hashes of what it is now."""
    weights = tensors(model)
    plain = json.dumps(numbers(model), sort_keys=True).encode()
    return Loaded(model, name, sha256(weights, [*sources, plain]), sha256(weights), said)


def build(module: str | None, arguments: dict[str, Any], key: str) -> tuple[Any, str, list[bytes]]:
    """The model, its name for people, and the sources that it was made of.

    Args:
        module: FILE.py:NAME or package.module:NAME.
        arguments: of the callable.
        key: of the configuration, for messages.

    Raises:
        ExternalError: it does not import, is not there, or makes no model.
    """
    place, _, name = (module or "").rpartition(":")
    if not place or not name:
        given = f"{key} is missing" if module is None else f"{key}={module} has no name"
        raise ExternalError(
            f"{given}: give {key}=FILE.py:NAME, the file and what in it makes the model{_defined(name)}"
        )
    with _importing(place, key) as source:
        found = getattr(source, name, None)
        if found is None:
            raise ExternalError(f"{key}={module}: {Path(place).name} has no {name}; it has {_names(source)}")
        if _is_model(found) and not inspect.isclass(found):
            if arguments:
                raise ExternalError(f"vae.arguments: {name} is a model already and takes none; leave them out")
            model = found
        elif not callable(found):
            raise ExternalError(
                f"{key}={module}: {name} is {_kind(found)}; name a function or class that makes the model"
            )
        else:
            with torch.random.fork_rng(devices=[]), blaming(f"{Path(place).name}:{name}({', '.join(arguments)})"):
                torch.manual_seed(0)  # what it leaves at random is the same each time, and so is its hash
                model = found(**arguments)
        if not _is_model(model):
            raise ExternalError(
                f"{key}={module}: {_kind(model)} comes of it, without {_lacking(model)}; it has {_methods(model)}: "
                "give it encode(x) and decode(z)"
            )
        return model, f"{Path(place).name}:{name}", _sources(source, model)


def _defined(place: str) -> str:
    """What a file that was given without a name in it defines at its top, as far as its text tells."""
    path = Path(place)
    if path.suffix != ".py" or not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.split()[1].split("(")[0].rstrip(":") for line in lines if line.startswith(("def ", "class "))]
    return f"; it has {', '.join(names)}" if names else ""


@contextmanager
def _importing(place: str, key: str) -> Iterator[ModuleType]:
    """The imported module; while its objects are made, the folder of a file is where Python looks first."""
    if not place.endswith(".py"):
        with blaming(f"{key}: importing {place}"):
            source = importlib.import_module(place)
        yield source
        return
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ExternalError(f"{key}={place}: there is no such file; give the path of the file, and a name in it")
    for name in _BROUGHT:
        sys.modules.pop(name, None)
    _BROUGHT.clear()
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        private = f"_expost_external_{path.stem}"
        spec = importlib.util.spec_from_file_location(private, path)
        if spec is None or spec.loader is None:
            raise ExternalError(f"{key}={place}: no Python file")
        source = importlib.util.module_from_spec(spec)
        sys.modules[private] = source  # dataclasses look there for their annotations
        with blaming(f"{key}: importing {path.name}"):
            spec.loader.exec_module(source)
        yield source
    finally:
        sys.path.remove(str(path.parent))
        _BROUGHT.update(_beside(path.parent) - before)


def _beside(folder: Path) -> set[str]:
    """Imported modules that lie in a folder of the user's; neither installed ones nor ours, wherever they lie."""
    return {
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in (*OURS, "__main__")
        and folder in (path := _file(module)).parents
        and is_own(path)
    }


def _file(module: Any) -> Path:
    return Path(getattr(module, "__file__", None) or "/")


def _sources(source: ModuleType, model: Any) -> list[bytes]:
    """Texts of the user's own files behind a model: the one that was named, what lies in its folder and is imported,
    and those of the classes of its parts."""
    named = _file(source)
    classes = {type(part) for top in modules(model).values() for part in top.modules()} | {type(model)}
    files = {_file(sys.modules.get(name)) for name in (*_beside(named.parent), *(cls.__module__ for cls in classes))}
    own = [path for path in sorted({named} | files) if path.suffix == ".py" and path.is_file() and is_own(path)]
    return [path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") for path in own]


def _is_model(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("encode", "decode"))


def _lacking(value: Any) -> str:
    return " or ".join(name for name in ("encode", "decode") if not callable(getattr(value, name, None)))


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _names(source: ModuleType) -> str:
    own = [name for name, value in vars(source).items() if getattr(value, "__module__", None) == source.__name__]
    return ", ".join(own[:8]) or "nothing of its own"


def _methods(value: Any) -> str:
    """What a user wrote in a class, before what it has from elsewhere."""
    own = [name for cls in type(value).__mro__ if not cls.__module__.startswith("torch") for name in vars(cls)]
    inner = [name for name, _ in value.named_children()] if hasattr(value, "named_children") else []
    names = [name for name in dict.fromkeys([*own, *inner]) if not name.startswith("_")]
    return ", ".join(names[:8]) or "nothing of its own"
