"""Flow matching along straight lines: x_t = (1 - t) e + t z, from noise at 0 to data at 1.

The velocity of a line is z - e, and the drift that carries N(0, I) into the latents is its mean, v(x, t) = E[z - e |
x_t = x] (Liu, Gong & Liu, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", 2023,
equation 1; Lipman et al., "Flow Matching for Generative Modeling", 2023, equation 22 with a smallest width of zero).

Times are uniform, or logit-normal, t = 1 / (1 + exp(-(m + s n))), n ~ N(0, 1), which lays the effort where m says
(Esser et al., "Scaling Rectified Flow Transformers", 2024, equation 19).

Noise and latents are paired at random; or, within a batch, so that the sum of squared distances is least (Tong et al.,
"Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2024, section 3.2), which
straightens the lines. Pairs are then of the same label, or the noise would tell it.
"""

from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stage1_vae.latents import LatentSpec
from stage2_prior.continuous import ContinuousPrior, Net
from stage2_prior.fitting import PriorError
from stage2_prior.ode import Solver

PAIRED = 256
"""Latents that are paired at once: the time of an assignment grows with the cube of their number."""


class FlowMatching(ContinuousPrior):
    """Args:
        spec, net, width, depth, patch, solver, conditional, label_dropout, base_std: as of `ContinuousPrior`.
        time_density: uniform or logit_normal.
        time_mean, time_std: m and s of logit_normal.
        pairing: random, or optimal within a batch.

    Raises:
        PriorError: for a number out of range, or labels that are not there.
    """

    noise_time, data_time = 0.0, 1.0

    def __init__(
        self,
        spec: LatentSpec,
        net: Net = "auto",
        width: int | None = None,
        depth: int | None = None,
        patch: int = 2,
        time_density: Literal["uniform", "logit_normal"] = "logit_normal",
        time_mean: float = 1.0,
        time_std: float = 1.0,
        pairing: Literal["random", "optimal"] = "random",
        solver: Solver = Solver(),  # noqa: B008, it is frozen
        conditional: bool = False,
        label_dropout: float = 0.1,
        base_std: float = 1.0,
    ) -> None:
        super().__init__(spec, net, width, depth, patch, solver, conditional, label_dropout, base_std)
        if time_std <= 0:
            raise PriorError(f"prior.time_std={time_std}: give a number above 0")
        self.time_density, self.time_mean, self.time_std = time_density, time_mean, time_std
        self.couples = pairing == "optimal"

    def path(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        one = torch.ones_like(time)
        return time, 1 - time, one, -one

    def times(self, level: Tensor) -> Tensor:
        if self.time_density == "uniform":
            return level
        time = torch.sigmoid(self.time_mean + self.time_std * torch.special.ndtri(level))
        return time.clamp(max=1 - 1e-6)  # a point without any noise has no mean velocity

    def schedule(self) -> Tensor:
        return torch.linspace(0.0, 1.0, self.solver.num_steps + 1)

    def clock(self, time: Tensor) -> Tensor:
        return time

    def couple(self, noise: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        if not self.couples:
            return noise
        blocks = zip(noise.split(PAIRED), z.detach().split(PAIRED), labels.split(PAIRED), strict=True)
        return torch.cat([noises[nearest(noises, *others)] for noises, *others in blocks])


def nearest(noise: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    """The order of `noise` [B, *shape] in which its distances to `z` are least, within each of `labels` [B]."""
    cost = torch.cdist(z.flatten(1).float(), noise.flatten(1).float()).square()
    cost += 2 * cost.max() * len(z) * (labels[:, None] != labels)
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(noise.device)
