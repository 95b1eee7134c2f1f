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
from torch import Tensor, nn
from torch.distributions import Distribution

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec
from stage2_prior.em.covariances import COVARIANCES
from stage2_prior.em.finite_mixture import FiniteMixture
from stage2_prior.em.gaussian import Components
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.prior import Exactness, GradientPrior, check_real_vector
from stage2_prior.sampling import Sampling

DIAGONAL = COVARIANCES["diagonal"]


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
        pseudo_inputs = PseudoInputs(self.spec, images.to(run.device), run.encoder)
        report = fit_by_gradient(pseudo_inputs, train, val, run)
        with torch.no_grad():
            fitted = pseudo_inputs.components()
        self.log_weights.copy_(fitted.log_weights)
        self.means.copy_(fitted.means)
        self.scale.copy_(fitted.scale)
        return report


class PseudoInputs(GradientPrior):
    """The same density while it is fitted: its parameters are images.

    Args:
        spec: of vectors.
        images: [K, C, H, W] to begin with.
        encoder: of such images.

    Raises:
        PriorError: posteriors of the encoder have no widths.
    """

    log_prob_is = Exactness.EXACT

    def __init__(self, spec: LatentSpec, images: Tensor, encoder: Callable[[Tensor], Distribution]) -> None:
        super().__init__(spec)
        self.encoder = encoder
        self.low, self.high = min(0.0, float(images.min())), max(1.0, float(images.max()))
        self.pixels = nn.Parameter(images.detach().clone())
        self.logits = nn.Parameter(images.new_zeros(len(images)))
        self.to(images.device)
        if not isinstance(encoder(images[:1]), DiagonalNormal):
            raise PriorError(
                "vamp_expost stands on posteriors with widths, and those of this autoencoder have none; "
                "use prior=mixture"
            )

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return VampExpost.check(spec)

    def prepare(self, train: LatentDataset) -> None:
        """Nothing is taken from the data but through training."""

    def components(self) -> Components:
        """Where the pseudo-inputs stand now, float64, on the device."""
        with torch.autocast(self.anchor.device.type, enabled=False):  # densities are never in half precision
            posterior = self.encoder(self.pixels.clamp(self.low, self.high))
            assert isinstance(posterior, DiagonalNormal)
            return Components(
                self.logits.double().log_softmax(0), posterior.loc.double(), posterior.log_std.double().exp()
            )

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        known, z = self.components(), z.double()
        features = DIAGONAL.features(z, torch.zeros_like(z))  # [B, F]
        joint = features @ DIAGONAL.natural(known.log_weights, known.means, known.scale)  # [B, K]
        return torch.logsumexp(joint, dim=1).float()

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.pixels.clamp_(self.low, self.high)
        return -self._log_prob(z, context)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        known = self.components()
        component = torch.multinomial(known.log_weights.exp(), n, replacement=True)
        return torch.normal(known.means[component], known.scale[component]).float()
