"""What a density over latents is, whatever its family.

A prior is a module, because it is fitted, saved and moved as a whole: all fitted state is in its `state_dict`.
Public methods validate once and call the private ones, which do the maths.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.sampling import PLAIN, Sampling, code_sizes

Encoder = Callable[[Tensor], Distribution]
"""Images [B, C, H, W] as stage 1 takes them -> q(z|x), batch [B]; differentiable."""


class Exactness(str, Enum):
    """What the number that `log_prob` returns is."""

    EXACT = "exact"
    LOWER_BOUND = "lower bound"
    ESTIMATE = "estimate"
    NONE = "none"


class Prior(nn.Module, ABC):
    """A density over latent events of one `LatentSpec`.

    Args:
        spec: what one event is.
    """

    version: ClassVar[int] = 1
    """Part of the key of what the class produces, and of exports; raised whenever its results change, but for what
    `fit_version` tells."""

    came_later: ClassVar[Mapping[str, Any]] = {}
    """Keywords that it has not always had, at the values under which it is what it was: no part of a key then."""
    loss_is: str = "nats"
    """What the number of `loss` is: nats where it is -log_prob or a bound on it, else "loss"."""
    takes_labels: ClassVar[bool] = False
    """Whether `conditional=true` is a word of its constructor; any other prior is then fitted once a class."""
    prior_keys: ClassVar[tuple[str, ...]] = ()
    """Words of its constructor that take priors of the same latents, or lists of them, and may name files of
    `conf/prior/`; a section with the `_target_` of a prior may stand under any word."""
    title: str = ""
    """Of one that another prior holds: what to call it."""
    fit_settings: Mapping[str, Any] = MappingProxyType({})
    """Of one that another prior holds: its own section `fit`."""
    has_stored_parts: ClassVar[bool] = False
    """Whether the priors under its word `members` are fitted as each is alone, and so found in a store."""

    looks_at_images: bool = False
    """Whether its fit compares decoded samples, where there is a decoder."""

    anchor: Tensor
    min_images: int = 1
    """Fewest training images that it can be fitted to."""
    min_images_a_class: int = 0
    """The same of each class, where each is fitted to its own images alone; else 0."""
    fits_in_ranks: bool = False
    """Whether `fit` divides its work over several ranks; a closed form does not need to."""
    num_classes: int = 0
    """Classes whose labels it takes as context; 0: it takes none."""
    passes: int = 1
    """Passes of a network that a density without a label takes."""
    needs_widths: bool = False
    """Whether it has no density where posteriors are point masses."""
    needs_encoder: bool = False
    """Whether its fit needs the encoder and the images that the latents come from, which a `FitRun` may lend."""
    learns_jointly: bool = False
    """Whether a VAE that is trained against it trains it too: the gradient of its density, or of what is that up to a
    constant, reaches its numbers and z."""
    said_when_joined: str = ""
    """What people should know of figures while it is learned with a VAE."""
    num_clusters: int = 0
    """Components of a mixture, whose responsibilities say which latents belong together; 0: it is none."""
    memorises: bool = False
    """Whether it stands on every training latent, and is no prior to choose."""
    knobs: frozenset[str] = frozenset()
    """Fields of `Sampling` that its samples can follow, beside truncation, which every density can."""

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device and the dtype

    @property
    @abstractmethod
    def log_prob_is(self) -> Exactness:
        """What the number of `log_prob` is."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Free numbers of the density: symmetric entries once, masked and fixed ones not at all."""

    @property
    def log_prob_error_nats(self) -> float:
        """Standard error that all of its densities share, of an estimated normaliser; 0: none.

        Noise that differs from latent to latent is not in it: the spread over latents holds that already.
        """
        return 0.0

    @property
    def caveats(self) -> list[str]:
        """What people should know of its densities and samples, in sentences: what is estimated, and how well."""
        return []

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        """Part of the key of what a fit of this section makes; raised where it ends with other weights, that mean what
        they did, so that exports stay readable."""
        return 1

    @classmethod
    @abstractmethod
    def check(cls, spec: LatentSpec) -> str | None:
        """Why this prior cannot model latents of `spec`, in words for the user; None if it can."""

    @abstractmethod
    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor: ...

    @abstractmethod
    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit to the aggregate posterior of `train`; `val` decides when to stop."""

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        """Let gradients move what otherwise another fit sets, from where it stands: a VAE is trained against it.

        Args:
            encoder: q(z|x) of images [B, C, H, W], as it is at the moment.
            images: so many of the training images, [n, C, H, W], on the device.

        Raises:
            PriorError: there is nothing to begin with.
        """

    def settle(self) -> None:
        """Keep what was learned since `join`; nothing of the VAE is needed from here on."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, *shape] -> [B] nats; `context`: labels [B], or None for the density over all classes.

        Raises:
            ValueError: when the event shape of `z` is not that of the spec.
            PriorError: for labels that the prior does not know.
        """
        self._check(z, context)
        return self._log_prob(z, context)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(z, k) of every component of a mixture: [B, *shape] -> [B, num_clusters] nats.

        Raises:
            ValueError: when the event shape of `z` is not that of the spec.
            PriorError: it is no mixture.
        """
        self._check(z, None)
        return self._log_joint(z)

    def _log_joint(self, z: Tensor) -> Tensor:
        raise PriorError("this prior is no mixture: it has no components that images could belong to")

    def sample(self, n: int, context: Tensor | None = None, how: Sampling = PLAIN) -> Tensor:
        """Draw [n, *shape] with torch's global generator; `context`: labels [n] or None.

        Raises:
            ValueError: when `n` is negative.
            PriorError: for labels that the prior does not know, or a knob of `how` that it cannot follow.
        """
        if n < 0:
            raise ValueError(f"cannot draw {n} samples")
        self._check_context(context, n)
        self.check_sampling(how, context is not None)
        with torch.no_grad():
            return self._sample(n, context, how) if how.truncation == 1 else self._likeliest(n, context, how)

    def _likeliest(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        """[n, *shape]: the likeliest n of n / truncation draws; where labels are given, of each class by itself."""
        num, device = math.ceil(n / how.truncation), self.anchor.device
        wanted = torch.zeros(n, dtype=torch.int64, device=device) if context is None else context.to(device).long()
        classes = wanted[torch.arange(num, device=device) * n // max(num, 1)]  # each place once, or more
        labels = None if context is None else classes
        z = self._sample(num, labels, replace(how, truncation=1.0))  # whose parts are not to cut again
        order = self._log_prob(z, labels).argsort(descending=True)
        order = order[classes[order].argsort(stable=True)]  # by class, the likeliest first
        drawn = classes.bincount(minlength=1)
        rank = torch.arange(num, device=device) - (drawn.cumsum(0) - drawn)[classes[order]]
        kept = order[rank < wanted.bincount(minlength=len(drawn))[classes[order]]].sort().values
        kept = kept[classes[kept].argsort(stable=True)]  # by class, as they were drawn
        return z[kept][wanted.argsort(stable=True).argsort()]

    def check_family(self, family: str) -> None:
        """Refuse posteriors of a `family` (a key of `stage1_vae.latents.dataset.FAMILIES`) that it cannot be fitted to.

        Raises:
            PriorError: with the remedy.
        """
        if self.needs_widths and family in ("delta", "draws"):
            raise PriorError(
                "these latents are points without a width, so that their aggregate has no density; widen them by "
                "prior.bandwidth=held_out, as prior=kde does"
            )

    def check_sampling(self, how: Sampling, labelled: bool) -> None:
        """Refuse what `sample` could not follow; `labelled`: whether labels will be given.

        Raises:
            PriorError: naming the knob.
        """
        for knob in how.knobs:
            if knob == "guidance" and not self.num_classes:
                raise PriorError("sample.guidance needs a prior of classes; fit one with prior.conditional=true")
            if knob == "truncation" and self.log_prob_is is not Exactness.NONE:
                continue
            if knob not in self.knobs:
                able = ", ".join(sorted(self.knobs)) or "nothing of a network"
                raise PriorError(f"this prior cannot follow sample.{knob}; leave it out (what it can follow: {able})")
        if how.guidance and not labelled:
            raise PriorError("sample.guidance leads towards a class and none is given; give sample.label too")
        if how.top_k is not None and how.top_k > (most := min(code_sizes(self.spec))):
            raise PriorError(f"sample.top_k={how.top_k} is more than the {most} codes; give at most {most}")

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """What training minimises, [B]: -log_prob unless the density has no cheap one; raises what that raises."""
        self._check(z, context)
        return self._loss(z, context)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return -self._log_prob(z, context)

    def _check(self, z: Tensor, context: Tensor | None) -> None:
        if z.shape[1:] != self.spec.shape:
            raise ValueError(f"z is {tuple(z.shape)}; expected [B, {', '.join(map(str, self.spec.shape))}]")
        self._check_context(context, len(z))

    def _check_context(self, context: Tensor | None, n: int) -> None:
        if context is None:
            return
        self.check_labels(context)
        if context.shape != (n,):
            raise ValueError(f"labels are {tuple(context.shape)}; expected [{n}]")

    def check_labels(self, context: Tensor) -> None:
        """Refuse labels that the prior does not know.

        Raises:
            PriorError: naming one.
        """
        if not self.num_classes:
            raise PriorError("this prior knows no classes; fit one with prior.conditional=true, or give no label")
        if context.is_floating_point() or context.dtype == torch.bool:
            raise PriorError(f"labels are {context.dtype}; give whole numbers from 0 to {self.num_classes - 1}")
        context = context.long()  # of a byte, a number of classes may be out of range
        wrong = context[(context < 0) | (context >= self.num_classes)]
        if len(wrong):
            raise PriorError(f"label {wrong[0].item()} is out of range; the classes are 0 to {self.num_classes - 1}")


class GradientPrior(Prior, ABC):
    """A prior that is fitted by minimising `loss` over fresh z ~ q(z|x), in the one training loop of stage 2."""

    fits_in_ranks = True

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        """What training minimises, [B, *shape] -> [B]."""

    def loss_of_draws(self, z: Tensor, context: Tensor | None, posterior: DiagonalNormal | None) -> Tensor:
        """What the training loop minimises, [B]: `loss`, or what has its gradient in the mean at a lower variance; in
        training a row's figure may depend on its batch.

        Args:
            z: [B, *shape], one draw of each posterior.
            context: labels [B] or None.
            posterior: of B latents, where they are normal.
        """
        return self.loss(z, context)

    @abstractmethod
    def prepare(self, train: LatentDataset) -> None:
        """Set, in buffers, what the density takes from the data before the first step."""

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Minimise `loss` on `train`; keep the weights that are best on `val`. See `fit_by_gradient`."""
        from stage2_prior.fit import fit_by_gradient  # here, because Lightning takes seconds to import

        return fit_by_gradient(self, train, val, run)


class Wrapper(Prior, ABC):
    """A prior around another one of the same latents; `conf/wrappers.yaml` offers those that `prior.wrap` may name.

    Args:
        prior: unfitted; its spec is the wrapper's.
    """

    of_points: ClassVar[bool] = False
    """Whether it stands around priors of point latents alone, and is left out of any other."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior.spec)
        self.num_classes, self.knobs, self.passes = prior.num_classes, prior.knobs, prior.passes
        self.min_images, self.min_images_a_class = prior.min_images, prior.min_images_a_class
        self.needs_widths, self.needs_encoder = prior.needs_widths, prior.needs_encoder
        self.fits_in_ranks, self.memorises, self.loss_is = prior.fits_in_ranks, prior.memorises, prior.loss_is
        self.learns_jointly, self.said_when_joined = prior.learns_jointly, prior.said_when_joined
        self.num_clusters = prior.num_clusters

    @property
    @abstractmethod
    def inner(self) -> Prior:
        """What it stands around; of several equal ones the first."""

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        self.inner.join(encoder, images)

    def settle(self) -> None:
        self.inner.settle()

    @classmethod
    def inner_spec(cls, spec: LatentSpec, **keywords: Any) -> LatentSpec:
        """What its prior models, around latents of `spec`; `keywords`: of its constructor, beside the prior."""
        return spec

    @classmethod
    def keywords_of(cls, spec: LatentSpec) -> dict[str, Any]:
        """What of its constructor's keywords the latents that it models decide."""
        return {}

    @classmethod
    def num_copies(cls, spec: LatentSpec) -> int:
        """How many copies of the wrapped prior it makes, of latents of `spec`."""
        return 0

    @property
    def log_prob_is(self) -> Exactness:
        return self.inner.log_prob_is

    @property
    def log_prob_error_nats(self) -> float:
        return self.inner.log_prob_error_nats

    @property
    def caveats(self) -> list[str]:
        return self.inner.caveats


def innermost(prior: Prior) -> Prior:
    """What stands inside of all wrappers."""
    while isinstance(prior, Wrapper):
        prior = prior.inner
    return prior


def check_support(models: str, spec: LatentSpec, *supports: Support) -> str | None:
    """The common answer to latents of other supports than these; `models`: who models what, in words. Spheres and boxes
    are of vectors."""
    is_shaped = spec.support not in (Support.SPHERE, Support.BOX) or len(spec.shape) == 1
    latents = spec.support.value if is_shaped else spec.words
    return None if spec.support in supports and is_shaped else f"{models}; these latents are {latents}"


def check_real_vector(name: str, spec: LatentSpec) -> str | None:
    """The common answer of densities over vectors of real numbers."""
    if spec.support is not Support.REAL or len(spec.shape) != 1:
        remedy = "; lay maps out as vectors by flatten in prior.wrap=[...]" * (spec.support is Support.REAL)
        return f"{name} models vectors of real numbers; these latents are {spec.words}{remedy}"
    return None
