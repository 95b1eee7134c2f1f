"""A mixture of the posteriors of pseudo-inputs, p(z) = sum_k w_k q(z|u_k), fitted when the VAE is done.

The prior that maximises the ELBO is the aggregate posterior, a mixture of as many posteriors as there are images; a
VampPrior has K of them, at inputs u_k that are learned (Tomczak & Welling, "VAE with a VampPrior", 2018, equation 9).
There they are learned with the VAE. Here its encoder is frozen: the u_k begin as K training images, and they and the
weights are moved by gradients through the encoder, so that E_q(z)[log p(z)] rises. What the encoder cannot say, a
component cannot be: it is as wide as a posterior, where a free mixture chooses its widths.

What is kept are the components, N(m(u_k), diag(s(u_k)^2)) and the weights: neither sampling nor a density needs the
encoder. As there, pixels stay within the range of images (its appendix has a hard tanh; here every step begins with a
projection, which leaves no pixel without a gradient).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.em.finite_mixture import FiniteMixture
from stage2_prior.em.moving import NO_WIDTHS, MovingMixture, PseudoInputs
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.prior import Encoder, GradientPrior, check_real_vector


class VampExpost(FiniteMixture, GradientPrior):
    """The mixture that is kept; its fit needs images and a trained encoder.

    Args:
        num_components: K, pseudo-inputs.

    Raises:
        PriorError: no components.
    """

    fits_in_ranks = False
    needs_encoder = True

    def __init__(self, spec: LatentSpec, num_components: int = 500) -> None:
        super().__init__(spec, num_components, "diagonal")

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("vamp_expost", spec)

    def check_family(self, family: str) -> None:
        """
        Raises:
            PriorError: posteriors are no normals with widths, of which its components are made.
        """
        if family != "diagonal_normal":
            raise PriorError(NO_WIDTHS)

    def prepare(self, train: LatentDataset) -> None:
        """Everything is taken from the data by `fit`."""

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return -self._log_prob(z, context)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit pseudo-inputs, which begin as random training images, and weights; keep the components.

        Raises:
            PriorError: there is no encoder, its posteriors have no widths, or as `fit_by_gradient`.
        """
        from stage2_prior.fit import fit_by_gradient  # here, because Lightning takes seconds to import

        if run.encoder is None or run.images is None:
            raise PriorError(
                "vamp_expost needs the images and the encoder of a VAE, and there are latents alone; "
                "prior=mixture does without"
            )
        self.check_number(len(train))
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(run.seed))
        images = run.images(order[: self.num_components].sort().values)
        moving = MovingMixture(self.spec, self.covariance, PseudoInputs(images.to(run.device), run.encoder))
        report = fit_by_gradient(moving, train, val, run)
        with torch.no_grad():
            self.keep(moving.components())
        return report

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        """Make parameters of images, which are random training images to begin with, and of the weights; of components
        that are fitted, whose images are gone, of their own numbers."""
        if self.is_fitted:
            return super().join(encoder, images)
        self.moving = MovingMixture(self.spec, self.covariance, PseudoInputs(images(self.num_components), encoder))
