"""The evidence lower bound against a mixture whose components are to be classes: clustering, with labels or none.

With p(z) = sum_k pi_k N(z; m_k, S_k) learned with the VAE, the responsibilities p(k|z) sort images into clusters. Where
q(k|x) is the mixture's own p(k|z), the bound of Jiang, Zheng, Tan, Tang & Zhou, "Variational Deep Embedding", 2017, is
the ELBO against p(z). From components anywhere it finds few clusters. As there, encoder and decoder first learn alone,
here against N(0, I) at a weight of its own; after `join_after` steps the components are placed on the latents by EM,
and from then on all of it ascends one bound.

What the likelihood alone calls a cluster need be no class: a slant of a digit is as good a reason for a component. That
a picture keeps its class when it is turned and shifted a little is knowledge which the bound has not, and which can be
added: information_weight times the mutual information of the components of an image and of the same image moved about
(Ji, Henriques & Vedaldi, "Invariant Information Clustering", 2019, equation 3), which is largest where both agree, each
is certain and all components are used alike. It changes what is learned and not what is a bound: the rest of the loss
still bounds -log p(x), of a model that was pulled elsewhere.

Where some labels are known, component y is class y. An image of known class costs log p(z, y) in place of log p(z), and
log p(z, y) = log p(z) + log p(y|z): so labels add the one term -log p(y|z), of z ~ q(z|x), at the share of images that
have one. It is weighed up here, as the classification loss of Kingma, Rezende, Mohamed & Welling, "Semi-supervised
Learning with Deep Generative Models", 2014, equation 9, is; beyond that share the loss bounds nothing. Images of known
class are drawn anew for each step, so that a few of them are heard among many.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_vae.latents.spec import LatentDensity, LatentSpec
from stage1_vae.objective import SCHEDULES_DONE, Objective, Terms
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE


class Mixture(LatentDensity, Protocol):
    """What it may know of the mixture: log p(z, k), [B, *latent] -> [B, K] nats."""

    def log_joint(self, z: Tensor) -> Tensor: ...


class ClusterELBO(Objective):
    """distortion + beta * rate under the mixture, label_weight * -log p(y|z) of images whose class is known, and
    -information_weight * I(k; k').

    Args:
        beta: weight of the rate; 1 is the bound.
        warmup_steps: optimiser steps over which it rises from 0; 0: none.
        join_after: steps that encoder and decoder learn alone, against N(0, I), before the components are placed on the
            latents; 0: components begin where the prior says, and learn from the first step.
        alone_beta: weight of the rate until then.
        label_weight: of -log p(y|z), a mean over images of known class, against nats an image.
        labelled_batch: images of known class a step, at most.
        information_weight: of the mutual information, in nats, against nats an image; 0: images stay as they are.
        turn_degrees, shift_pixels, zoom: how far an image is turned and slanted, shifted, and scaled for it, at most,
            either way; `zoom` as a share.

    Attributes:
        place: puts the components where the latents are; lent before training. None: they stay.
        is_alone: the components wait for their place.
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
        information_weight: float = 0.0,
        turn_degrees: float = 15.0,
        shift_pixels: float = 3.0,
        zoom: float = 0.1,
    ) -> None:
        super().__init__()
        amounts = {"beta": beta, "warmup_steps": warmup_steps, "join_after": join_after, "alone_beta": alone_beta}
        amounts |= {"label_weight": label_weight, "information_weight": information_weight}
        for name, value in (
            amounts | {"turn_degrees": turn_degrees, "shift_pixels": shift_pixels, "zoom": zoom}
        ).items():
            if value < 0:
                raise ValueError(f"vae.objective.{name} must not be negative, got {value}")
        for name, value, most in (("turn_degrees", turn_degrees, 90), ("zoom", zoom, 1)):
            if value >= most:
                raise ValueError(f"vae.objective.{name} must be below {most}, got {value}")
        if labelled_batch < 1:
            raise ValueError(f"vae.objective.labelled_batch must be at least 1, got {labelled_batch}")
        self.beta, self.warmup_steps, self.join_after, self.alone_beta = beta, warmup_steps, join_after, alone_beta
        self.label_weight, self.labelled_batch = label_weight, labelled_batch
        self.information_weight = information_weight
        self.turn_degrees, self.shift_pixels, self.zoom = turn_degrees, shift_pixels, zoom
        self.place: Callable[[], None] | None = None
        self.is_alone = join_after > 0
        self.register_buffer("known_images", torch.zeros(0), persistent=False)  # [N, C, H, W], of images as x
        self.register_buffer("known_classes", torch.zeros(0, dtype=torch.int64), persistent=False)  # [N]

    def check(self, spec: LatentSpec) -> str | None:
        return None

    def words(self, vae: VAE) -> str | None:
        said = []
        if len(self.known_classes):
            said.append(
                f"{len(self.known_classes):,} labels are known: their term counts {self.label_weight:g} times a mean "
                "over them"
            )
        if self.information_weight:
            said.append(
                f"the information that components keep of images moved about counts {self.information_weight:g} times"
            )
        return f"{'; '.join(said)}; with it the loss bounds nothing" if said else None

    def know(self, x: Tensor, classes: Tensor) -> None:
        """Train with images `x` [N, C, H, W] of known `classes` [N] from now on; on the device."""
        self.known_images, self.known_classes = x, classes

    def before_step(self, step: int) -> None:
        if step == self.join_after and self.join_after and self.place is not None:
            self.place()
        self.is_alone = step < self.join_after  # of a compiled step a constant, which changes once

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        rate = rate_nats(encoding.posterior, self.prior_of(vae), z)  # [B] nats
        loss, extras = distortion.mean(), dict[str, Tensor]()
        if encoding.penalty is not None:
            loss = loss + encoding.penalty.mean()
        is_done = isinstance(step, int) and step >= SCHEDULES_DONE
        if self.is_alone and not is_done:
            assert vae.base_prior is not None
            alone = rate_nats(encoding.posterior, vae.base_prior, z)  # [B] nats, closed form
            extras = {name: torch.zeros_like(loss) for name in self._terms}
            # ranks wait for a gradient of every parameter, if it be nothing
            return Terms(loss + self.alone_beta * alone.mean() + 0 * rate.mean(), distortion, alone, extras)
        loss = loss + self._weight(step) * rate.mean()
        if "information_nats" in self._terms:
            extras["information_nats"] = self._information_nats(vae, x, z)
            loss = loss - self.information_weight * extras["information_nats"]
        if "label_nats" in self._terms:
            extras["label_nats"] = self._label_nats(vae)
            loss = loss + self.label_weight * extras["label_nats"]
        return Terms(loss, distortion, rate, extras)

    @property
    def _terms(self) -> list[str]:
        """Beside the bound; of training images alone."""
        asked = {"information_nats": self.information_weight > 0, "label_nats": len(self.known_classes) > 0}
        return [name for name, is_asked in asked.items() if is_asked and self.training]

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
        return F.cross_entropy(self._mixture.log_joint(z), self.known_classes[rows])

    def _information_nats(self, vae: VAE, x: Tensor, z: Tensor) -> Tensor:
        """I(k; k') of the components of images `x` with latents `z`, and of the same images moved about, []."""
        with torch.autocast(x.device.type, enabled=False):
            moved = move_about(x, self.turn_degrees, self.shift_pixels, self.zoom)
        z_moved = vae.encode(moved).posterior.rsample()
        with torch.autocast(x.device.type, enabled=False):  # a product of shares is not to be in half precision
            joint = self._mixture.log_joint(torch.cat([z, z_moved])).softmax(1)  # [2 B, K]
            together = joint[: len(x)].T @ joint[len(x) :] / len(x)  # [K, K]
            together = ((together + together.T) / 2).clamp_min(1e-8)
            log_alone = together.sum(1).log()  # [K]
            return (together * (together.log() - log_alone[:, None] - log_alone)).sum()

    @property
    def _mixture(self) -> Mixture:
        return self.prior  # type: ignore[return-value]  # `expost.parts.labels` lets no other pass


def move_about(x: Tensor, degrees: float, pixels: float, zoom: float) -> Tensor:
    """Images [B, C, H, W], each turned, shifted and scaled at random by at most so much; what comes in is 0."""
    draw = torch.rand(5, len(x), device=x.device, dtype=x.dtype) * 2 - 1
    angle, scale = math.radians(degrees) * draw[0], 1 + zoom * draw[1]
    shear = math.tan(math.radians(degrees)) * draw[2]
    height, width = x.shape[-2:]
    sine, cosine = angle.sin() * scale, angle.cos() * scale
    rows = [cosine, shear - sine, 2 * pixels / width * draw[3], sine, cosine, 2 * pixels / height * draw[4]]
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
