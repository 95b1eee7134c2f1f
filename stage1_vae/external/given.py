"""A model that is there already, as an object: whoever exported a prior by reference hands it over again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stage1_vae.external.module import loaded
from stage1_vae.external.pretrained import CLASSES, Folded
from stage1_vae.external.source import ExternalSource, Loaded, counted
from stage1_vae.external.weights import freeze


@dataclass(frozen=True, kw_only=True)
class Given(ExternalSource):
    """An object with `encode(x)` and `decode(z)`, or a model of diffusers.

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
