"""The prior that was learned with the VAE: stage 2 takes it over as it is, and judges it beside the others.

A VAE may be trained against a density that is not fixed (`vae.prior`): encoder, decoder and prior then ascend one bound
together, as with a VampPrior (Tomczak & Welling, "VAE with a VampPrior", 2018) or a flow (Chen et al., "Variational
Lossy Autoencoder", 2017). Nothing is left to fit when the VAE is done.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitReport, FitRun, PriorError, Stopwatch
from stage2_prior.held_out import report
from stage2_prior.prior import Prior, Wrapper
from stage2_prior.sampling import Sampling

NONE_LEARNED = (
    "prior=learned takes over what was learned with the VAE, and this one learns none; choose vae=vamp, vae=gmvae, "
    "vae=flow_prior, vae=learned_gaussian or vae=rbm"
)


class Learned(Wrapper):
    """Args:
        prior: what was learned, before it is filled with that; None: nothing.

    Raises:
        PriorError: nothing was, or what cannot be learned with a VAE.
    """

    prior_keys: ClassVar[tuple[str, ...]] = ("prior",)

    def __init__(self, spec: LatentSpec, prior: Prior | None = None) -> None:
        if prior is None:
            raise PriorError(NONE_LEARNED)
        super().__init__(prior)
        self.prior, self.needs_encoder, self.fits_in_ranks = prior, False, False
        self.num_clusters = prior.num_clusters

    @property
    def inner(self) -> Prior:
        return self.prior

    @property
    def num_parameters(self) -> int:
        return self.prior.num_parameters

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return None  # what was learned is asked

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.prior.log_prob(z, context)

    def _log_joint(self, z: Tensor) -> Tensor:
        return self.prior.log_joint(z)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        return self.prior.sample(n, context, how)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Take over what was learned; both sets are only measured.

        Raises:
            PriorError: there is no VAE that has learned it.
        """
        if run.learned is None:
            raise PriorError(NONE_LEARNED)
        watch = Stopwatch()
        self.prior.load_state_dict(dict(run.learned))
        notes: Sequence[str] = ["learned with the VAE: its time to learn is that of the VAE"]
        return report(self, train, val, run, watch.seconds, [], list(notes))
