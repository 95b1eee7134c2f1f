"""The evidence lower bound against a mixture whose components are to be classes: clustering, with labels or none.

With p(z) = sum_k pi_k N(z; m_k, S_k) learned with the VAE, the responsibilities p(k|z) sort images into clusters. Where
q(k|x) is the mixture's own p(k|z), the bound of Jiang, Zheng, Tan, Tang & Zhou, "Variational Deep Embedding", 2017, is
the ELBO against p(z). From components anywhere it finds few clusters. As there, encoder and decoder first learn alone,
here against N(0, I) at a weight of its own; after `join_after` steps the components are placed on the latents by EM,
and from then on all of it ascends one bound.

Where some labels are known, component y is class y. An image of known class costs log p(z, y) in place of log p(z), and
log p(z, y) = log p(z) + log p(y|z): so labels add the one term -log p(y|z), of z ~ q(z|x), at the share of images that
have one. It is weighed up here, as the classification loss of Kingma, Rezende, Mohamed & Welling, "Semi-supervised
Learning with Deep Generative Models", 2014, equation 9, is; beyond that share the loss bounds nothing. Images of known
class are drawn anew for each step, so that a few of them are heard among many.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentDensity, LatentSpec
from stage1_vae.objective import SCHEDULES_DONE, Objective, Terms
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE


class Mixture(LatentDensity, Protocol):
    """What it may know of the mixture: log p(z, k), [B, *latent] -> [B, K] nats."""

    def log_joint(self, z: Tensor) -> Tensor: ...


class ClusterELBO(Objective):
    """distortion + beta * rate under the mixture, and label_weight * -log p(y|z) of images whose class is known.

    Args:
        beta: weight of the rate; 1 is the bound.
        warmup_steps: optimiser steps over which it rises from 0; 0: none.
        join_after: steps that encoder and decoder learn alone, against N(0, I), before the components are placed on the
            latents; 0: components begin where the prior says, and learn from the first step.
        alone_beta: weight of the rate until then.
        label_weight: of -log p(y|z), a mean over images of known class, against nats an image.
        labelled_batch: images of known class a step, at most.

    Attributes:
        place: puts the components where the latents are; lent before training. None: they stay.
    """

    needs_prior = True
    uses_labels = True
    known_images: Tensor
    known_classes: Tensor

    def __init__(
        self,
        beta: float = 1.0,
        warmup_steps: int = 0,
        join_after: int = 0,
        alone_beta: float = 1.0,
        label_weight: float = 10.0,
        labelled_batch: int = 100,
    ) -> None:
        super().__init__()
        amounts = {"beta": beta, "warmup_steps": warmup_steps, "join_after": join_after, "alone_beta": alone_beta}
        for name, value in (amounts | {"label_weight": label_weight}).items():
            if value < 0:
                raise ValueError(f"vae.objective.{name} must not be negative, got {value}")
        if labelled_batch < 1:
            raise ValueError(f"vae.objective.labelled_batch must be at least 1, got {labelled_batch}")
        self.beta, self.warmup_steps, self.join_after, self.alone_beta = beta, warmup_steps, join_after, alone_beta
        self.label_weight, self.labelled_batch = label_weight, labelled_batch
        self.place: Callable[[], None] | None = None
        self.register_buffer("known_images", torch.zeros(0), persistent=False)  # [N, C, H, W], of images as x
        self.register_buffer("known_classes", torch.zeros(0, dtype=torch.int64), persistent=False)  # [N]

    def check(self, spec: LatentSpec) -> str | None:
        return None

    def words(self, vae: VAE) -> str | None:
        if not len(self.known_classes):
            return None
        return (
            f"{len(self.known_classes):,} labels are known: their term counts {self.label_weight:g} times a mean over "
            "them, and beyond their share of the images the loss is no bound"
        )

    def know(self, x: Tensor, classes: Tensor) -> None:
        """Train with images `x` [N, C, H, W] of known `classes` [N] from now on; on the device."""
        self.known_images, self.known_classes = x, classes

    def before_step(self, step: int) -> None:
        if step == self.join_after and self.join_after and self.place is not None:
            self.place()

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        rate = rate_nats(encoding.posterior, self.prior_of(vae), z)  # [B] nats
        paid = self._weight(step) * rate
        is_alone = self._is_alone(step, z.device)
        if is_alone is not None:
            assert vae.base_prior is not None
            alone = rate_nats(encoding.posterior, vae.base_prior, z)  # [B] nats, closed form
            rate, paid = torch.where(is_alone, alone, rate), torch.where(is_alone, self.alone_beta * alone, paid)
        loss = distortion.mean() + paid.mean()
        if encoding.penalty is not None:
            loss = loss + encoding.penalty.mean()
        if not (len(self.known_classes) and self.training):
            return Terms(loss, distortion, rate)
        wrong = self._label_nats(vae)
        if is_alone is not None:
            wrong = torch.where(is_alone, torch.zeros_like(wrong), wrong)
        return Terms(loss + self.label_weight * wrong, distortion, rate, {"label_nats": wrong})

    def _is_alone(self, step: int | Tensor, device: torch.device) -> Tensor | None:
        """Whether the components wait for their place at `step`, []; None: they never do, or it is over."""
        if not self.join_after or (isinstance(step, int) and step >= SCHEDULES_DONE):
            return None
        return torch.as_tensor(step, device=device) < self.join_after

    def _weight(self, step: int | Tensor) -> float | Tensor:
        """Of the rate under the mixture."""
        if not self.warmup_steps or (isinstance(step, int) and step >= SCHEDULES_DONE):
            return self.beta
        share = (step - self.join_after + 1) / self.warmup_steps
        return self.beta * (share.clamp(0.0, 1.0) if isinstance(share, Tensor) else min(1.0, max(0.0, share)))

    def _label_nats(self, vae: VAE) -> Tensor:
        """Mean -log p(y|z) of some images of known class, []."""
        num = min(self.labelled_batch, len(self.known_classes))
        rows = torch.randint(len(self.known_classes), (num,), device=self.known_classes.device)
        z = vae.encode(self.known_images[rows]).posterior.rsample()
        prior: Mixture = self.prior  # type: ignore[assignment]  # `expost.parts.labels` lets no other pass
        joint = prior.log_joint(z)  # [num, K] nats
        return -joint.log_softmax(1).gather(1, self.known_classes[rows, None]).mean()
