"""What the rate is made of: information about the image, and a mismatch that a better prior removes.

With the image's index n uniform on 1..N and the aggregate posterior q(z) = 1/N sum_n q(z|x_n), the mean rate splits as

    1/N sum_n KL(q(z|x_n) || p(z))  =  I(n; z)  +  KL(q(z) || p(z))

(Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound", 2016, eq. 7). The
first term is the mutual information that the code carries, whatever the prior is; the second, the marginal KL, is all
that fitting a prior afterwards can win.

Both are means over draws z_n ~ q(z|x_n), one an image, so each comes with its standard error over images:

    I(n; z)            = E[log q(z|x_n) - log q(z)]
    KL(q(z) || p(z))   = E[log q(z) - log p(z)]
    cross entropy      = E[-log p(z)]            the cost -log p(z) of a draw, in nats

Ceiling. The sum in q(z) contains the component that z was drawn from, so q(z) >= q(z|x_n) / N and no draw can say more
than log N nats. For the N images themselves this is no error: an index among N holds no more information. For the
images of the world it is: the estimate of their mutual information is biased low and that of their marginal KL high by
the same amount, and the closer to log N the larger the bias. At the ceiling every image has a place of its own in
latent space and the mutual information is only known to be at least log N. Compare figures of equally many images only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError

LogDensity = Callable[[Tensor], Tensor]
"""z [B, *latent] -> log p(z) [B] nats."""
AT_CEILING_NATS = 0.05
"""An estimate this close to log N counts as having reached it; two standard errors where those are more."""
BLOCK = 1024


@dataclass(frozen=True)
class Estimate:
    """A mean over draws, and its standard error (over images, one draw each); None for a single draw."""

    value: float
    standard_error: float | None

    @classmethod
    def of(cls, per_image: Tensor) -> "Estimate":
        """The mean of `per_image` [B]."""
        values = per_image.double()
        spread = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
        return cls(values.mean().item(), spread)

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "standard_error": self.standard_error}


@dataclass(frozen=True)
class UnderPrior:
    """Draws of q(z) under one prior, in nats; None with a note where the density is not finite at some draw.

    Attributes:
        cross_entropy_nats: E[-log p(z)].
        marginal_kl_nats: KL(q(z) || p(z)).
        rate_nats: E[log q(z|x) - log p(z)] = mutual information + marginal KL, from the same draws.
        note: why there is no figure, in words.
    """

    cross_entropy_nats: Estimate | None
    marginal_kl_nats: Estimate | None
    rate_nats: Estimate | None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        figures = ("cross_entropy_nats", "marginal_kl_nats", "rate_nats")
        return {name: _json(getattr(self, name)) for name in figures} | {"note": self.note}


@dataclass(frozen=True)
class Surgery:
    """The rate of some images taken apart.

    Attributes:
        num_draws: images that a z was drawn for, one each.
        num_components: N, images whose posteriors make the aggregate.
        mutual_information_nats: I(n; z), at most `ceiling_nats`.
        ceiling_nats: log N.
        at_ceiling: the estimate is within `AT_CEILING_NATS`, or two standard errors, of the ceiling; then it is a lower
            bound on the mutual information and nothing more.
        priors: name -> what the same draws cost under that prior.
    """

    num_draws: int
    num_components: int
    mutual_information_nats: Estimate
    ceiling_nats: float
    at_ceiling: bool
    priors: dict[str, UnderPrior]

    def to_json(self) -> dict[str, Any]:
        return {
            "num_draws": self.num_draws,
            "num_components": self.num_components,
            "mutual_information_nats": self.mutual_information_nats.to_json(),
            "ceiling_nats": self.ceiling_nats,
            "at_ceiling": self.at_ceiling,
            "priors": {name: under.to_json() for name, under in self.priors.items()},
        }


def _json(estimate: Estimate | None) -> dict[str, float | None] | None:
    return None if estimate is None else estimate.to_json()


@torch.no_grad()
def surgery(
    z: Tensor, log_posterior: Tensor, log_aggregate: Tensor, num_components: int, priors: Mapping[str, LogDensity]
) -> Surgery:
    """Take the rate apart, under several priors at once.

    Args:
        z: [B, *latent], one draw of q(z|x_n) for each of B images.
        log_posterior: [B] nats, log q(z|x_n) of the draw under the posterior that it comes from.
        log_aggregate: [B] nats, log q(z) of the draw, from an aggregate that has that posterior in it.
        num_components: N, of the aggregate.
        priors: name -> log-density.

    Raises:
        EvaluationError: there is no draw, the latents are not finite, or some draw is likelier under its own posterior
            than N times the aggregate: then its posterior is not a component.
    """
    log_posterior, log_aggregate = log_posterior.double(), log_aggregate.double()
    if len(z) == 0:
        raise EvaluationError("no latents to take the rate of apart: the split is empty")
    information = log_posterior - log_aggregate  # [B] nats
    if not torch.isfinite(information).all():
        raise EvaluationError("the latents hold NaN or infinity: the VAE diverged; train it again with a lower rate")
    ceiling = math.log(num_components)
    if information.max() > ceiling + 0.01:
        raise EvaluationError("the aggregate posterior does not contain the posteriors that the latents come from")
    mutual = Estimate.of(information)
    slack = max(AT_CEILING_NATS, 2 * (mutual.standard_error or 0.0))
    return Surgery(
        num_draws=len(z),
        num_components=num_components,
        mutual_information_nats=mutual,
        ceiling_nats=ceiling,
        at_ceiling=mutual.value >= ceiling - slack,
        priors={name: under_prior(z, log_posterior, log_aggregate, density) for name, density in priors.items()},
    )


@torch.no_grad()
def under_prior(z: Tensor, log_posterior: Tensor, log_aggregate: Tensor, density: LogDensity) -> UnderPrior:
    """What draws z [B, *latent] cost under a prior; `log_posterior`, `log_aggregate` [B] nats as for `surgery`."""
    log_prior = torch.cat([density(block).double().to(z.device) for block in z.split(BLOCK)])  # [B] nats
    broken = int((~torch.isfinite(log_prior)).sum())
    if broken:
        note = f"the log-density is not finite at {broken:,} of {len(z):,} draws of q(z): no mean exists"
        return UnderPrior(None, None, None, note)
    return UnderPrior(
        cross_entropy_nats=Estimate.of(-log_prior),
        marginal_kl_nats=Estimate.of(log_aggregate - log_prior),
        rate_nats=Estimate.of(log_posterior - log_prior),
    )
