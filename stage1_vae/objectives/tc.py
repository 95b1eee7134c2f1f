"""beta-TCVAE: the ELBO with a weight on what makes the dimensions of z depend on each other, and on nothing else.

The rate, taken over images, is I(x; z) + KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d)); the middle one is the
total correlation (Chen, Li, Grosse & Duvenaud, "Isolating Sources of Disentanglement in VAEs", 2018, equation 2). What
is minimised is distortion + rate + (beta - 1) TC, with TC of the aggregate of the batch,

    log q(z_i) = log 1/B sum_j q(z_i|x_j),   log q(z_id) = log 1/B sum_j q(z_id|x_j)

Their minibatch-weighted estimate (equation S6) has N B in the place of B: a constant apart, with the same gradient.
With beta = 1 it is the -ELBO; anything else bounds no likelihood.
"""

import math

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import Objective, Terms
from stage1_vae.posteriors import LOG_2PI, DiagonalNormal
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE


class TC(Objective):
    """Args:
    beta: weight of the total correlation; 1 is the bound.
    """

    needs_prior = True

    def __init__(self, beta: float = 6.0) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"vae.objective.beta must not be negative, got {beta}")
        self.beta = beta

    def check(self, spec: LatentSpec) -> str | None:
        if spec.support is not Support.REAL:
            return f"TC needs Gaussian posteriors, and these latents are {spec.support.value}; use the ELBO"
        return None

    def check_family(self, family: str) -> str | None:
        if family != "diagonal_normal":
            return "TC needs Gaussian posteriors, whose marginals are known; use the ELBO, or vae=tc as it is"
        return None

    def words(self, vae: VAE) -> str | None:
        return (
            None
            if self.beta == 1
            else f"total correlation counts {self.beta:g} times: the loss bounds no likelihood, the report does"
        )

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        rate = rate_nats(encoding.posterior, self.prior_of(vae), z)  # [B] nats
        assert isinstance(encoding.posterior, DiagonalNormal)
        correlation = total_correlation(encoding.posterior, z)
        loss = (distortion + rate).mean() + (self.beta - 1) * correlation
        return Terms(loss, distortion, rate, {"tc_of_batch_nats": correlation})


def total_correlation(posterior: DiagonalNormal, z: Tensor) -> Tensor:
    """KL(q(z) || prod_d q(z_d)) of the aggregate of a batch, estimated at its own z [B, *event]; [] nats."""
    loc, log_std, points = (value.flatten(1).float() for value in (posterior.loc, posterior.log_std, z))
    scaled = (points[:, None] - loc) * torch.exp(-log_std)  # [B, B, D]: point i, posterior j
    per_dim = -0.5 * (scaled.square() + LOG_2PI) - log_std
    log_num = math.log(len(points))
    joint = torch.logsumexp(per_dim.sum(2), 1) - log_num  # [B]
    marginals = (torch.logsumexp(per_dim, 1) - log_num).sum(1)  # [B]
    return (joint - marginals).mean()
