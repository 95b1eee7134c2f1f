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

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.sections import Decomposition, Estimate, UnderPrior

LogDensity = Callable[[Tensor], Tensor]
"""z [B, *latent] -> log p(z) [B] nats."""
AT_CEILING_NATS = 0.05
"""An estimate this close to log N counts as having reached it; two standard errors where those are more."""
BLOCK = 1024


def mean_of(per_image: Tensor) -> Estimate:
    """The mean of `per_image` [B], one draw each."""
    values = per_image.double()
    error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return Estimate(values.mean().item(), error)


@torch.no_grad()
def decompose(
    z: Tensor, log_posterior: Tensor, log_aggregate: Tensor, num_components: int, priors: Mapping[str, LogDensity]
) -> Decomposition:
    """Take the rate apart, under several priors at once.

    Args:
        z: [B, *latent], one draw of q(z|x_n) for each of B images.
        log_posterior: [B] nats, log q(z|x_n) of the draw under the posterior that it comes from.
        log_aggregate: [B] nats, log q(z) of the draw, from an aggregate that has that posterior in it.
        num_components: N, of the aggregate.

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
    mutual = mean_of(information)
    slack = max(AT_CEILING_NATS, 2 * (mutual.standard_error or 0.0))
    return Decomposition(
        num_draws=len(z),
        num_components=num_components,
        mutual_information_nats=mutual,
        ceiling_nats=ceiling,
        at_ceiling=mutual.value >= ceiling - slack,
        priors={name: under_prior(z, log_posterior, log_aggregate, density) for name, density in priors.items()},
    )


@torch.no_grad()
def under_prior(z: Tensor, log_posterior: Tensor, log_aggregate: Tensor, density: LogDensity) -> UnderPrior:
    """What draws z [B, *latent] cost under a prior; `log_posterior`, `log_aggregate` [B] nats as for `decompose`."""
    log_prior = torch.cat([density(block).double().to(z.device) for block in z.split(BLOCK)])  # [B] nats
    broken = int((~torch.isfinite(log_prior)).sum())
    if broken:
        note = f"the log-density is not finite at {broken:,} of {len(z):,} draws of q(z): no mean exists"
        return UnderPrior(None, None, None, note)
    return UnderPrior(
        cross_entropy_nats=mean_of(-log_prior),
        marginal_kl_nats=mean_of(log_aggregate - log_prior),
        rate_nats=mean_of(log_posterior - log_prior),
    )
