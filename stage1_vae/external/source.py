"""Where an autoencoder that is not ours comes from: the class under `_target_` of some files in `conf/vae/`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.external.autoencoder import External, OwnDensity
from stage1_vae.external.calling import Caller, Format
from stage1_vae.external.checks import study
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.readings import Second
from stage1_vae.external.recognition import Asked
from stage1_vae.external.weights import modules
from stage1_vae.likelihoods import BernoulliImage, BernoulliLikelihood, GaussianLikelihood, Likelihood

OTHER_RANGES = ((-1.0, 1.0), (0.0, 1.0))
MUCH_BETTER = 0.5
"""Of the squared error: the other range is then named."""
EXACT = 1e-10
"""Squared errors up to here are rounding, of images in [0, 1] and float32: no range is better than the other."""


@dataclass(frozen=True)
class Loaded:
    """Somebody else's model and what it is.

    Attributes:
        model: has `encode(x)` and `decode(z)`; in evaluation mode.
        name: for people: "AutoencoderKL in FOLDER", "vae.py:make".
        sha256: of its weights and of its source.
        weights_sha256: of its weights alone, for `External.check_unchanged`.
        said: what was taken: which weights, which class, how many parameters.
    """

    model: Any
    name: str
    sha256: str
    weights_sha256: str
    said: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExternalSource(ABC):
    """Loads a model that somebody else has trained; its fields are keys of `vae:`.

    Attributes:
        range: what black and white, our 0 and 1, are to the model; None: what models of this kind take.
        multiple: heights and widths are padded to multiples of it; None: what the model says, else 1.
        channels: "repeat": greyscale images go in three times over, and the mean of three comes back.
        second: what stands beside a mean.
        num_codes: size of the codebook, or one a level; None: the model knows.
        precision: "32", or "bf16" where the model's layers may compute in that; latents are float32 either way.
    """

    range: tuple[float, float] | None = None
    multiple: int | None = None
    channels: Literal["same", "repeat"] = "same"
    second: Literal["auto", "log_var", "log_std", "std", "var"] = "auto"
    num_codes: int | list[int] | None = None
    precision: Literal["32", 32, "bf16"] = "32"

    version: ClassVar[int] = 1
    usual_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """What models of this kind take where nobody says otherwise."""

    def __post_init__(self) -> None:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ExternalError(f"vae.range={list(self.range)}: give what black and white are, such as [-1,1]")
        if self.multiple is not None and self.multiple < 1:
            raise ExternalError(f"vae.multiple={self.multiple}: give a number of pixels, 1 or more")

    @abstractmethod
    def load(self) -> Loaded:
        """
        Raises:
            ExternalError: there is no such model, or it cannot be loaded.
        """

    def stride(self, model: Any) -> int:
        """Pixels of which heights and widths are multiples, as far as the model says."""
        return 1

    def ingredients(self, loaded: Loaded) -> dict[str, Any]:
        """Everything that can change latents or decoded images, for the key in the store; JSON."""
        return {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "version": self.version,
            "sha256": loaded.sha256,
            "range": list(self.range or self.usual_range),
            "multiple": self.multiple or self.stride(loaded.model),
            "channels": self.channels,
            "second": self.second,
            "num_codes": self.num_codes,
            "precision": str(self.precision),
        }

    def autoencoder(self, loaded: Loaded, x: Tensor, num_classes: int, levels: int | None = None) -> External:
        """The model behind our own interface, recognised and checked.

        Args:
            loaded: from `load`.
            x: a few real images [B, C, H, W] as a model of ours is given them, two at least.
            num_classes: of the labels that travel beside the latents; 0: none.
            levels: of images that are dequantised; see `Format`.

        Raises:
            ExternalError: it cannot be stage 1; with what to do.
        """
        if len(x) < 2:
            raise ExternalError(
                "an autoencoder that comes from elsewhere is looked at on two images: give at least two"
            )
        self._check_images(x)
        x = x.to(_device(loaded.model))
        shape = (x.shape[1], x.shape[2], x.shape[3])
        multiple = self.multiple or self.stride(loaded.model)
        form = Format(shape, self.range or self.usual_range, multiple, self.channels == "repeat", levels)
        second = None if self.second == "auto" else Second(self.second)
        num_codes = tuple(self.num_codes) if isinstance(self.num_codes, list) else self.num_codes
        asked = Asked(second, num_codes)
        caller = Caller(loaded.model, form, str(self.precision))
        studied = study(caller, x, asked)
        spec_words = studied.reading.spec(studied.shape, 0).words
        said = "; ".join([f"{loaded.name}: {studied.reading.words}", spec_words, *form.words])
        guesses = (*studied.reading.guesses, *self._other_range(caller, x[:2], asked, studied.decoded))
        likelihood = _likelihood(studied.decoded)
        return External(
            caller,
            studied.reading,
            studied.shape,
            likelihood,
            num_classes=num_classes,
            said=said,
            guesses=guesses,
            is_differentiable=studied.is_differentiable,
            watched=studied.watched,
            asked=studied.asked,
        ).to(x.device)

    def _check_images(self, x: Tensor) -> None:
        low, high = float(x.min()), float(x.max())
        if (self.range or self.usual_range) != (0.0, 1.0) and not 0 <= low <= high <= 1:
            raise ExternalError(
                f"the images have values from {low:.3g} to {high:.3g}, and the model takes "
                f"{list(self.range or self.usual_range)} for our [0, 1]: vae.range=[0,1] hands them over as they are"
            )
        if self.channels == "repeat" and x.shape[1] != 1:
            raise ExternalError(
                f"vae.channels=repeat is for images of one channel, and these have {x.shape[1]}: leave it out"
            )

    def _other_range(self, caller: Caller, x: Tensor, asked: Asked, decoded: Any) -> tuple[str, ...]:
        """A line where the user named no range and the two images come back much better in the other one."""
        if self.range is not None or not isinstance(decoded, Tensor) or x.min() < 0 or x.max() > 1:
            return ()
        error = float((decoded[: len(x)] - x).square().mean())
        if error <= EXACT:
            return ()
        for low, high in OTHER_RANGES:
            if (low, high) == caller.format.range:
                continue
            trial = replace(caller, format=replace(caller.format, range=(low, high)), keep=False)
            try:
                other = study(trial, x, asked).decoded
            except ExternalError:
                continue
            if isinstance(other, Tensor) and (better := float((other - x).square().mean())) < MUCH_BETTER * error:
                return (
                    f"images go in as {list(caller.format.range)}, and come back with a squared error of {error:.2g} a "
                    f"pixel; as [{low:g}, {high:g}] it is {better:.2g}: vae.range=[{low:g},{high:g}] changes it",
                )
        return ()


def _likelihood(decoded: Tensor | Distribution) -> Likelihood:
    if isinstance(decoded, BernoulliImage):
        return BernoulliLikelihood()
    return GaussianLikelihood() if isinstance(decoded, Tensor) else OwnDensity()


def _device(model: Any) -> torch.device:
    for module in modules(model).values():
        for value in (*module.parameters(), *module.buffers()):
            return value.device
    return torch.device("cpu")


def counted(model: Any) -> str:
    """For people: how many parameters a model has."""
    tops = modules(model).values()
    num = sum(value.numel() for module in tops for value in module.parameters())
    return f"{num:,} parameters" if tops else "in which no module was found: its hash is of its source and its arrays"
