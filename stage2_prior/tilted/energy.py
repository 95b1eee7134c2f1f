"""A latent energy-based prior: p(z) = p_0(z) exp f(z) / Z, with f a network and p_0 a base that is fitted first.

After Pang, Han, Nijkamp, Zhu & Wu, "Learning Latent Space Energy-Based Prior Model", NeurIPS 2020 (equations 2 and 9):
the gradient of log p is that of f at the data minus its mean under p, and p is sampled by a few Langevin steps from
draws of p_0 (Nijkamp, Hill, Zhu & Wu, "Learning Non-Convergent Non-Persistent Short-Run MCMC Toward Energy-Based
Model", NeurIPS 2019). Two things are different here, because a density is wanted and not a sampler alone:

- Chains that are too short to forget p_0 leave no reason for f ever to stop growing: from a mixture, 5 steps, held-out
  latents lost 0.47 nats in two epochs. So of several draws of p_0 one is taken by its weight exp f (sampling-importance
  resampling: Rubin, 1987), which alone would do where p_0 is near, and the chain starts there.
- Each step is accepted as Metropolis has it (Roberts & Tweedie, "Exponential convergence of Langevin distributions and
  their discrete approximations", 1996), which costs no further pass and leaves p where it is.

There the base is N(0, I); a fitted mixture is nearer, and so Z, an average over the base, is known better. How well:
`stage2_prior.tilted.tilting`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Prior, innermost
from stage2_prior.sampling import Sampling
from stage2_prior.tilted.tilting import ROWS_AT_ONCE, Tilted


class Energy(Tilted):
    """A base and an energy over vectors of real numbers; samples are those of a short chain.

    Args:
        base: p_0, unfitted; its density is exact, and it is not fitted by gradient.
        steps: of Langevin, of a sample.
        training_steps: of Langevin, of the negative samples of a step of training.
        candidates: draws of the base for each chain to start at one.
        step_size: standard deviation of the noise of one, in the units of z.
        num_chains: negative samples of a step of training.
        hidden, dropout: of the network.
        num_draws: of the base for Z after the fit.

    Raises:
        PriorError: for a number out of range, or a base that is none.
    """

    loss_is = "loss"

    def __init__(
        self,
        spec: LatentSpec,
        base: Prior | None = None,
        steps: int = 5,
        training_steps: int = 1,
        candidates: int = 4,
        step_size: float = 0.1,
        num_chains: int = 512,
        hidden: Sequence[int] = (256, 256, 256),
        dropout: float = 0.0,
        num_draws: int = 2**18,
    ) -> None:
        super().__init__(spec, base, hidden, dropout, num_draws, bias=False)
        counts = {"steps": steps, "training_steps": training_steps, "candidates": candidates, "num_chains": num_chains}
        for name, count in counts.items():
            if count < (name in ("candidates", "num_chains")):
                raise PriorError(f"prior.{name}={count}: give more")
        if not step_size > 0:
            raise PriorError(f"prior.step_size={step_size}: give a number above 0")
        self.steps, self.training_steps, self.step_size = steps, training_steps, step_size
        self.candidates, self.num_chains = candidates, num_chains

    @property
    def caveats(self) -> list[str]:
        base = type(innermost(self.base)).__name__.lower()
        begin = f"its samples begin at one of {self.candidates} draws of its {base}, by weight, and take {self.steps}"
        return [f"{begin} Langevin steps: they follow its density only as far as these lead.", *super().caveats]

    def log_tilt(self, z: Tensor) -> Tensor:
        return self.answer(z)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        if not self.training:
            return self._held_out_loss(z)
        negatives = self._walk(self._start(self.num_chains), self.training_steps)
        of_data, of_negatives = self.answer(torch.cat([z, negatives])).split([len(z), len(negatives)])
        return of_negatives.mean() - of_data

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        return torch.cat(
            [self._walk(self._start(len(rows)), self.steps) for rows in torch.arange(n).split(ROWS_AT_ONCE)]
        )

    @torch.no_grad()
    def _start(self, n: int) -> Tensor:
        """Draws of the base [n, D], each the one of several that its weight has chosen."""
        drawn = self.base.sample(self.candidates * n)
        energies = self.answer(drawn).view(n, self.candidates)
        gumbel = -torch.log(torch.empty_like(energies).exponential_())
        chosen = (energies + gumbel).argmax(1)  # a draw by weight
        return drawn.view(n, self.candidates, self.spec.num_dims)[torch.arange(n, device=drawn.device), chosen]

    def _walk(self, z: Tensor, steps: int) -> Tensor:
        """Where chains at z [B, D] are after so many steps of Langevin, each accepted as Metropolis has it."""
        log_prob, slope = self._rise(z)
        half = 0.5 * self.step_size**2
        for _ in range(steps):
            noise = torch.randn_like(z)
            there = z + half * slope + self.step_size * noise
            log_prob_there, slope_there = self._rise(there)
            back = (z - there - half * slope_there) / self.step_size  # the noise that would lead back
            gain = log_prob_there - log_prob + 0.5 * (noise.square() - back.square()).sum(1)
            accepted = gain > -torch.empty_like(gain).exponential_()  # log of a uniform number
            z = torch.where(accepted[:, None], there, z)
            slope = torch.where(accepted[:, None], slope_there, slope)
            log_prob = torch.where(accepted, log_prob_there, log_prob)
        return z

    def _rise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) + log Z [B], and its gradient [B, D]."""
        with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            z = z.detach().requires_grad_()
            log_prob = self.base.log_prob(z) + self.answer(z)
            (slope,) = torch.autograd.grad(log_prob.sum(), z)
        return log_prob.detach(), slope
