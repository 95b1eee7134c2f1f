"""Diffusion as Karras, Aittala, Aila & Laine lay it out ("Elucidating the Design Space of Diffusion-Based Generative
Models", 2022; EDM, whose equations are meant below), for latents of unit variance, which the wrapper gives.

A denoiser D(x; s) of z + s e is a network F behind c_skip = 1 / (s^2 + 1), c_out = s / sqrt(s^2 + 1), c_in = 1 /
sqrt(s^2 + 1) (equation 7 and table 1). Written in the angle u = arctan s, which is what the network is told of the
noise, these are cos^2 u, sin u, cos u; what it sees is

    c_in (z + s e) = cos(u) z + sin(u) e,   and what it learns is   (z - c_skip (z + s e)) / c_out = sin(u) z - cos(u) e

(equation 8), which is minus the velocity of that same circular path (Lu & Song, "Simplifying, Stabilizing and Scaling
Continuous-Time Consistency Models", 2025, section 3). The loss weight (s^2 + 1) / s^2 makes the error of F count alike
at each s (section 5), and the equation dx/ds = (x - D(x; s)) / s (equation 1 for s(t) = t) is the flow along -F in u.
So this file says which path, which noise levels are trained on, ln s ~ N(mean, std^2) (section 5), and where the steps
of a sample lie, evenly in u, or in s^(1/rho) (equation 5); the rest is `ContinuousPrior`'s, Heun's steps included
(algorithm 1 without churn, in coordinates in which the drift has no pole at s = 0).

Latents are modelled with the noise of the smallest level, in parts of their standard deviation: it is the floor that
keeps the density of point masses finite. Posteriors are a tenth to a third as wide.
"""

import math

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec
from stage2_prior.continuous import ContinuousPrior, Net
from stage2_prior.fitting import PriorError
from stage2_prior.ode import Solver


class Diffusion(ContinuousPrior):
    """Args:
        spec, net, width, depth, patch, solver, conditional, label_dropout, base_std: as of `ContinuousPrior`.
        noise_mean, noise_std: of the logarithm of the noise levels that are trained on.
        min_noise, max_noise: noise levels of data and of noise, in standard deviations of the latents.
        rho: of EDM's levels of a sample's steps, the larger, the more are small; None: steps even in the angle. On the
            latents of an MNIST VAE ten of these give a Frechet distance of 1.63, ten of EDM's (rho = 7) one of 1.96,
            and many of either one of 1.60 to 1.63. Twenty even ones lie within 0.01 of forty, ten 0.04 above.

    Raises:
        PriorError: for a number out of range, or labels that are not there.
    """

    def __init__(
        self,
        spec: LatentSpec,
        net: Net = "auto",
        width: int | None = None,
        depth: int | None = None,
        patch: int = 2,
        noise_mean: float = -1.0,
        noise_std: float = 1.0,
        min_noise: float = 0.01,
        max_noise: float = 80.0,
        rho: float | None = None,
        solver: Solver = Solver(num_steps=20),  # noqa: B008, it is frozen
        conditional: bool = False,
        label_dropout: float = 0.1,
        base_std: float = 1.0,
    ) -> None:
        super().__init__(spec, net, width, depth, patch, solver, conditional, label_dropout, base_std)
        for name, number in {"noise_std": noise_std, "min_noise": min_noise, "rho": rho}.items():
            if number is not None and number <= 0:
                raise PriorError(f"prior.{name}={number}: give a number above 0")
        if max_noise <= min_noise:
            raise PriorError(f"prior.max_noise={max_noise}: give more than prior.min_noise={min_noise}")
        self.noise_mean, self.noise_std, self.rho = noise_mean, noise_std, rho
        self.data_time, self.noise_time = math.atan(min_noise), math.atan(max_noise)

    def path(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return time.cos(), time.sin(), -time.sin(), time.cos()

    def times(self, level: Tensor) -> Tensor:
        noise = torch.exp(self.noise_mean + self.noise_std * torch.special.ndtri(level))
        return noise.atan().clamp(self.data_time, self.noise_time)

    def schedule(self) -> Tensor:
        if self.rho is None:
            return torch.linspace(self.noise_time, self.data_time, self.solver.num_steps + 1)
        most, least = (math.tan(time) ** (1 / self.rho) for time in (self.noise_time, self.data_time))
        return torch.linspace(most, least, self.solver.num_steps + 1).pow(self.rho).atan()

    def clock(self, time: Tensor) -> Tensor:
        return time  # the paper's ln(s) / 4 runs away at both ends, where the solver then needs its places
