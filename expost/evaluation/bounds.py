"""Bounds on log p(x) by importance sampling from q(z|x).

With z_1..z_K ~ q(z|x) and weights w_k = p(x|z_k) p(z_k) / q(z_k|x), the importance-weighted bound is
L_K = E[log 1/K sum_k w_k] <= log p(x); it never falls as K rises, and L_1 is the ELBO, L_1 = -(distortion + rate)
(Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", 2016, eq. 8; Kingma & Welling, "Auto-Encoding
Variational Bayes", 2014, eq. 3).

Sign: everything here is a cost, lower is better. `elbo_nats` and `iwae_nats` are the NEGATED bounds, so both are upper
bounds on -log p(x), in nats an image, and stand beside published negative log-likelihoods as they are.

Decoding dominates the cost, and p(x|z) does not depend on the prior, so all priors share the same proposals and decoder
passes. That also pairs them: the difference between two priors carries no noise from the distortion. Samples are
consumed in chunks by a running log-sum-exp, so memory does not grow with K.

How loose the bound is shows in the weights: with an effective sample size (sum w)^2 / sum w^2 of n, log p(x) is known
to about sqrt(1/n - 1/K) nats, and where one weight outweighs all others (n near 1) that itself says little (Kong, "A
note on importance sampling using standardized weights", 1992).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Draw = Callable[[int], tuple[Tensor, Tensor | None]]
"""n -> z [n, B, *latent] ~ q(z|x) and log q(z|x) [n, B] nats; None for point masses."""
Propose = Callable[[Tensor], Draw]
"""x [B, C, H, W] -> how its z are drawn: what of that costs a pass of the encoder is done once."""
LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, H, W], z [n, B, *latent]) -> log p(x|z) [n, B] nats."""
LogPrior = Callable[[Tensor], Tensor]
"""z [M, *latent] -> log p(z) [M] nats."""
ClosedFormRate = Callable[[Tensor], Tensor]
"""x [B, C, H, W] -> KL(q(z|x) || p(z)) [B] nats."""

MAX_PIXELS = 2**23
"""Decoded at once: a dozen float32 copies of so many pixels are about 400 MB."""


@dataclass(frozen=True)
class Bounds:
    """Costs of each image under one prior, in nats, lower is better; float64 [N] on the CPU.

    Attributes:
        num_samples: the number of z drawn for an image whose density was taken: K, or fewer.
        distortion_nats: mean -log p(x|z); None without a decoder.
        latent_nll_nats: mean -log p(z), z ~ q(z|x); None where the prior has no density.
        rate_nats: KL(q(z|x) || p(z)), closed form where one was given; None for point masses or without a density.
        elbo_nats: distortion + rate, an upper bound on -log p(x); None where the rate is.
        iwae_nats: the importance-weighted upper bound on -log p(x); None where the rate is, or of fewer samples than K.
        ess_share: effective sample size of the weights over K, in [1/K, 1]; None where that bound is.
    """

    num_samples: int
    distortion_nats: Tensor | None
    latent_nll_nats: Tensor | None
    rate_nats: Tensor | None = None
    elbo_nats: Tensor | None = None
    iwae_nats: Tensor | None = None
    ess_share: Tensor | None = None

    def means(self) -> dict[str, float | None]:
        """The mean over images of each figure, under its name; None where it does not exist."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith("_nats")}
        return {name: None if v is None else v.mean().item() for name, v in values.items()}


def rows_at_once(shape: tuple[int, ...]) -> int:
    """Pairs of image and latent that are taken at once, of images [C, H, W]."""
    return max(1, min(8192, MAX_PIXELS // math.prod(shape)))


@torch.no_grad()
def importance_bounds(
    x_batches: Iterable[Tensor],
    propose: Propose,
    log_likelihood: LogLikelihood,
    priors: Mapping[str, LogPrior | None],
    num_samples: int,
    closed_form_rates: Mapping[str, ClosedFormRate] | None = None,
    max_rows: int = 8192,
    fewer: Mapping[str, int] | None = None,
) -> dict[str, Bounds]:
    """Bounds of every image under every prior, from shared proposals.

    Args:
        x_batches: batches [B, C, H, W]; wrap it in a progress bar if you want one.
        propose: how to draw from q(z|x).
        log_likelihood: log p(x|z).
        priors: name -> log-density; None for a prior that has none, which then only gets its distortion.
        num_samples: K, at least 1.
        closed_form_rates: name -> exact rate, used for `rate_nats` and `elbo_nats` instead of the estimate.
        max_rows: most (sample, image) pairs that are decoded at once, or one sample of a larger batch: neither this nor
            anything that is kept grows with K.
        fewer: name -> how many of the K samples of an image its density is taken of, where that is dear; it gets no
            importance-weighted bound, which would not compare with that of K.

    Raises:
        ValueError: when `num_samples` is below 1 or there is no image.
    """
    if num_samples < 1:
        raise ValueError(f"a bound needs at least one sample, got num_samples={num_samples}")
    rates = dict(closed_form_rates or {})
    taken = {name: min(num_samples, (fewer or {}).get(name, num_samples)) for name in priors}
    batches = [_bound_batch(x, propose, log_likelihood, priors, num_samples, rates, max_rows, taken) for x in x_batches]
    return {name: concatenate([batch[name] for batch in batches]) for name in priors}


def _bound_batch(
    x: Tensor,
    propose: Propose,
    log_likelihood: LogLikelihood,
    priors: Mapping[str, LogPrior | None],
    num_samples: int,
    rates: Mapping[str, ClosedFormRate],
    max_rows: int,
    taken: Mapping[str, int],
) -> dict[str, Bounds]:
    chunk, draw = max(1, max_rows // len(x)), propose(x)
    zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    distortion = zeros.clone()  # [B] running sum
    log_posterior, log_prior = ({name: zeros.clone() for name in priors} for _ in range(2))  # over what is taken
    log_weight = {name: torch.full_like(zeros, -math.inf) for name in priors}  # running log-sum-exp of log w
    log_square = {name: torch.full_like(zeros, -math.inf) for name in priors}  # and of 2 log w
    point_mass = False
    for start in range(0, num_samples, chunk):
        z, log_q = draw(min(chunk, num_samples - start))  # [n, B, *latent], [n, B]
        point_mass = log_q is None
        log_lik = log_likelihood(x, z).double()  # [n, B]
        distortion -= log_lik.sum(0)
        for name, density in priors.items():
            n = min(len(z), taken[name] - start)
            if density is None or n <= 0:
                continue
            log_p = density(z[:n].flatten(0, 1)).double().view(n, len(x))  # [n, B]
            log_prior[name] += log_p.sum(0)
            if log_q is not None:
                log_posterior[name] += log_q[:n].double().sum(0)
                log_w = log_lik[:n] + log_p - log_q[:n].double()  # [n, B]
                log_weight[name] = torch.logaddexp(log_weight[name], torch.logsumexp(log_w, dim=0))
                log_square[name] = torch.logaddexp(log_square[name], torch.logsumexp(2 * log_w, dim=0))

    def finish(name: str) -> Bounds:
        num = taken[name]
        mean_distortion, nll = distortion / num_samples, -log_prior[name] / num
        if priors[name] is None or point_mass:
            nll_nats = None if priors[name] is None else nll.cpu()
            return Bounds(num, mean_distortion.cpu(), nll_nats)
        closed = rates.get(name)
        rate = (log_posterior[name] - log_prior[name]) / num if closed is None else closed(x).double()
        is_weighted = num == num_samples
        return Bounds(
            num_samples=num,
            distortion_nats=mean_distortion.cpu(),
            latent_nll_nats=nll.cpu(),
            rate_nats=rate.cpu(),
            elbo_nats=(mean_distortion + rate).cpu(),
            iwae_nats=(math.log(num) - log_weight[name]).cpu() if is_weighted else None,
            ess_share=((2 * log_weight[name] - log_square[name]).exp() / num).cpu() if is_weighted else None,
        )

    return {name: finish(name) for name in priors}


Figures = TypeVar("Figures", bound=Any)


def concatenate(batches: Sequence[Figures]) -> Figures:
    """The dataclass that all `batches` are as one of all their images.

    Raises:
        ValueError: there is none.
    """
    if not batches:
        raise ValueError("no images to bound")
    values = {field.name: [getattr(batch, field.name) for batch in batches] for field in fields(batches[0])}
    return replace(batches[0], **{name: torch.cat(v) for name, v in values.items() if isinstance(v[0], Tensor)})


def bits_per_dim(nll_nats: float, num_dims: int, levels: int = 1) -> float:
    """A negative log-likelihood of one image in bits per dimension (pixel and channel).

    Args:
        nll_nats: -log p(x), or an upper bound on it, in nats an image.
        num_dims: C * H * W.
        levels: 1 when p is a probability mass function over the grey levels themselves; 256 when p is a density on
            dequantised 8-bit data scaled to [0, 1], where one level is 1/256 wide and so costs log2(256) more.
    """
    return nll_nats / (math.log(2) * num_dims) + math.log2(levels)
