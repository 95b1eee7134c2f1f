"""What a density over latents is, whatever its family.

A prior is a module, because it is fitted, saved and moved as a whole: all fitted state is in its `state_dict`.
Public methods validate once and call the private ones, which do the maths.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.ranks import Ranks
from stage2_prior.sampling import PLAIN, Sampling, code_sizes


class PriorError(ValueError):
    """A fit that cannot be done as asked: one line for the user, with the remedy."""


class Exactness(str, Enum):
    """What the number that `log_prob` returns is."""

    EXACT = "exact"
    LOWER_BOUND = "lower bound"
    ESTIMATE = "estimate"
    NONE = "none"


class Kept(Protocol):
    """Where a fit that has no Lightning loop keeps its state between iterations, and finds it when it starts again."""

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Call it after each iteration: it keeps as often as that is cheap.

        Args:
            done, total: iterations, for the user's eyes.
            tensors: the state; of any shape and type.
            facts: what else there is, as JSON has it; floating-point numbers come back to the last bit.
        """

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last by an attempt that did not finish, on the CPU; None: the fit begins."""


class NothingKept:
    """A fit that starts over when it is stopped."""

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None: ...

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return None


@dataclass(frozen=True)
class FitRun:
    """What the world lends to a fit.

    Attributes:
        device: where to compute.
        seed: of everything random in the fit.
        log: takes figures (name -> value) and the step or epoch that they belong to.
        lightning_fit: runs Lightning's training loop with the run's device, loggers and progress bar; takes a module,
            its training and validation batches, and any keyword of `pytorch_lightning.Trainer`; with `keeps=False` it
            keeps nothing, which whoever calls it twice must say.
        settings: the `fit:` section of the prior's config (batch size, learning rate, patience, ...).
        kept: for a fit with a loop of its own; `lightning_fit` keeps and continues by itself.
        ranks: the processes that fit together; each is lent a `FitRun` of its own and ends with the same answer.
    """

    device: torch.device
    seed: int
    log: Callable[[Mapping[str, float], int], None]
    lightning_fit: Callable[..., None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: Kept = field(default_factory=NothingKept)
    ranks: Ranks = field(default_factory=Ranks)


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Attributes:
        seconds: wall time of the fit alone; of one that was continued, over all attempts, without what was done twice.
        train_nll_nats: mean -log p(z) over fresh z ~ q(z|x), training images; None without a density. Of a prior of
            classes too, it is that of all classes together.
        val_nll_nats: the same on held-out images.
        curve: held-out figures over the fit, one mapping an iteration or epoch. Of a prior of classes, `val_nll_nats`
            in it is the mean -log p(z|y), and so not the figure of that name above.
        notes: what the user should know, in words (a component re-seeded, stopped at the time limit, ...).
    """

    seconds: float
    train_nll_nats: float | None
    val_nll_nats: float | None
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Prior(nn.Module, ABC):
    """A density over latent events of one `LatentSpec`.

    Args:
        spec: what one event is.
    """

    version: ClassVar[int] = 1
    """Part of the key of what the class produces; raised whenever its results change."""

    anchor: Tensor
    min_images: int = 1
    """Fewest training images that it can be fitted to."""
    num_classes: int = 0
    """Classes whose labels it takes as context; 0: it takes none."""
    passes: int = 1
    """Passes of a network that a density without a label takes."""
    knobs: frozenset[str] = frozenset()
    """Fields of `Sampling` that its samples can follow."""

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
    @abstractmethod
    def fits_in_ranks(self) -> bool:
        """Whether `fit` divides its work over several ranks; a closed form does not need to."""

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

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, *shape] -> [B] nats; `context`: labels [B], or None for the density over all classes.

        Raises:
            ValueError: when the event shape of `z` is not that of the spec.
            PriorError: for labels that the prior does not know.
        """
        self._check_shape(z)
        self._check_context(context, len(z))
        return self._log_prob(z, context)

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
            return self._sample(n, context, how)

    def check_sampling(self, how: Sampling, labelled: bool) -> None:
        """Refuse what `sample` could not follow; `labelled`: whether labels will be given.

        Raises:
            PriorError: naming the knob.
        """
        for knob in how.knobs:
            if knob == "guidance" and not self.num_classes:
                raise PriorError("sample.guidance needs a prior of classes; fit one with prior.conditional=true")
            if knob not in self.knobs:
                able = ", ".join(sorted(self.knobs)) or "none: it is sampled as it is"
                raise PriorError(f"this prior cannot follow sample.{knob}; leave it out (what it can follow: {able})")
        if how.guidance and not labelled:
            raise PriorError("sample.guidance leads towards a class and none is given; give sample.label too")
        if how.top_k is not None and how.top_k > (most := min(code_sizes(self.spec))):
            raise PriorError(f"sample.top_k={how.top_k} is more than the {most} codes; give at most {most}")

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """What training minimises, [B]: -log_prob unless the density has no cheap one.

        Raises:
            ValueError: when the event shape of `z` is not that of the spec.
            PriorError: for labels that the prior does not know.
        """
        self._check_shape(z)
        self._check_context(context, len(z))
        return self._loss(z, context)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return -self._log_prob(z, context)

    def _check_shape(self, z: Tensor) -> None:
        if z.shape[1:] != self.spec.shape:
            raise ValueError(f"z is {tuple(z.shape)}; expected [B, {', '.join(map(str, self.spec.shape))}]")

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

    @abstractmethod
    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        """What training minimises, [B, *shape] -> [B]."""

    @abstractmethod
    def prepare(self, train: LatentDataset) -> None:
        """Set, in buffers, what the density takes from the data before the first step."""

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Minimise `loss` on `train`; keep the weights that are best on `val`. See `fit_by_gradient`."""
        from stage2_prior.fit import fit_by_gradient  # here, because Lightning takes seconds to import

        return fit_by_gradient(self, train, val, run)


def check_real_vector(name: str, spec: LatentSpec) -> str | None:
    """The common answer of densities over vectors of real numbers."""
    if spec.support.value not in ("real",) or len(spec.shape) != 1:
        return f"{name} models vectors of real numbers; these latents are {spec.support.value} of shape {spec.shape}"
    return None
