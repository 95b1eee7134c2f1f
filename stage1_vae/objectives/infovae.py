"""InfoVAE: the ELBO with its rate taken apart, so that a code may carry information and the aggregate still match.

The rate is I(x; z) + KL(q(z) || p(z)). Here the first counts 1 - alpha and the second lambda, the second by the maximum
mean discrepancy (Zhao, Song & Ermon, "InfoVAE", 2019, equation 6):

    distortion + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + lambda - 1) MMD^2(q(z), p(z))

With alpha = 0 and lambda = 1 it is the -ELBO; anything else bounds no likelihood.
"""

from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.mmd import mmd_squared
from stage1_vae.objective import Objective, Terms
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE


class InfoVAE(Objective):
    """Args:
    alpha: what the rate is relieved of, up to 1.
    weight: lambda, of the discrepancy, which is of the order of 1, against nats an image.
    """

    needs_prior = True

    def __init__(self, alpha: float = 0.5, weight: float = 300.0) -> None:
        super().__init__()
        if alpha > 1:
            raise ValueError(f"vae.objective.alpha must be at most 1, got {alpha}")
        if alpha + weight < 1:
            raise ValueError(f"vae.objective.weight must be at least 1 - alpha, got {weight}")
        self.alpha, self.weight = alpha, weight

    def check(self, spec: LatentSpec) -> str | None:
        if spec.support is not Support.REAL:
            return f"InfoVAE compares real numbers, and these latents are {spec.support.value}; use the ELBO"
        return None

    def check_learned(self, spec: LatentSpec) -> str | None:
        if self.alpha == 1:
            return "with vae.objective.alpha=1 no rate is paid for, by which alone a prior is learned; give less than 1"
        return None

    def words(self, vae: VAE) -> str | None:
        return (
            None
            if (self.alpha, self.weight) == (0, 1)
            else "the aggregate's distance counts beside the rate: the loss bounds no likelihood, the report does"
        )

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        prior = self.prior_of(vae)
        distortion = -image.log_prob(x)  # [B] nats
        rate = rate_nats(encoding.posterior, prior, z)  # [B] nats
        flat = z.flatten(1)
        several = len(x) > 1
        discrepancy = mmd_squared(flat, prior.sample(len(x)).flatten(1)) if several else flat.new_zeros(())
        loss = (distortion + (1 - self.alpha) * rate).mean() + (self.alpha + self.weight - 1) * discrepancy
        return Terms(loss, distortion, rate, {"mmd": discrepancy})
