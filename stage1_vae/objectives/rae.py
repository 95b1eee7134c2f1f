"""Regularised autoencoders: no noise, a latent kept small, and a decoder kept smooth.

RAE (Ghosh, Sajjadi, Vergari, Black & Schoelkopf, "From Variational to Deterministic Autoencoders", 2020, equations 8 to
12): distortion + latent_penalty |z|^2 / 2, and one of

- gradient_penalty: decoder_penalty |d D(z) / d z|^2, the squared Frobenius norm of the Jacobian of what the decoder
  puts out, estimated from one random direction v an image: E |J^T v|^2 = |J|_F^2 for v ~ N(0, I);
- l2: decoder_penalty times the sum of the decoder's squared weights;
- spectral_norm: each of its layers but the last, which sets the scale of images, is divided by its largest singular
  value while it is trained (Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018); what is
  kept are the weights so divided.

Penalties of the decoder count in training alone: what validation compares is the rest.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import Objective, Terms
from stage1_vae.vae import VAE

Regulariser = Literal["gradient_penalty", "l2", "spectral_norm"]
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class RAE(Objective):
    """distortion + latent_penalty * |z|^2 / 2 + what keeps the decoder smooth.

    Args:
        regulariser: which of the three.
        latent_penalty: weight of half the squared norm of z.
        decoder_penalty: weight of gradient_penalty or l2.
    """

    needs_prior = False
    compiles = False  # a gradient of a gradient

    def __init__(
        self,
        regulariser: Regulariser = "gradient_penalty",
        latent_penalty: float = 1e-2,
        decoder_penalty: float = 1e-4,
    ) -> None:
        super().__init__()
        for name, value in {"latent_penalty": latent_penalty, "decoder_penalty": decoder_penalty}.items():
            if value < 0:
                raise ValueError(f"vae.objective.{name} must not be negative, got {value}")
        self.regulariser, self.latent_penalty, self.decoder_penalty = regulariser, latent_penalty, decoder_penalty

    def check(self, spec: LatentSpec) -> str | None:
        if spec.support is not Support.REAL:
            return f"RAE keeps real numbers small, and these latents are {spec.support.value}; use vae=delta"
        return None

    def words(self, vae: VAE) -> str | None:
        return "no rate is paid for: the loss bounds no likelihood"

    def begin(self, vae: VAE) -> None:
        if self.regulariser == "spectral_norm":
            for layer in hidden_layers(vae.decoder):
                spectral_norm(layer)

    def end(self, vae: VAE) -> None:
        for layer in hidden_layers(vae.decoder):
            if is_parametrized(layer, "weight"):
                remove_parametrizations(layer, "weight")

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding = vae.encode(x)
        z = encoding.posterior.rsample()  # [B, *latent]
        raw = vae.decoder(vae.embed(z))  # [B, numbers of the likelihood, H, W]
        distortion = -vae.likelihood(raw.float()).log_prob(x)  # [B] nats
        half_square = 0.5 * z.square().flatten(1).sum(1)  # [B]
        loss = (distortion + self.latent_penalty * half_square).mean()
        extras = {"half_square": half_square.mean()}
        if self.training and self.regulariser != "spectral_norm":
            extras["decoder_penalty"] = self.gradient_norm(raw, z) if self.regulariser != "l2" else weight_norm(vae)
            loss = loss + self.decoder_penalty * extras["decoder_penalty"]
        return Terms(loss=loss, distortion=distortion, rate=None, extras=extras)

    def gradient_norm(self, raw: Tensor, z: Tensor) -> Tensor:
        """Mean squared Frobenius norm of the Jacobian of `raw` [B, ...] by `z` [B, ...], one direction an image; []."""
        (gradient,) = torch.autograd.grad(raw, z, torch.randn_like(raw), create_graph=True)
        return gradient.float().square().sum() / len(z)


def hidden_layers(decoder: nn.Module) -> Sequence[nn.Module]:
    """The layers of weights in `decoder` but the last."""
    return [part for part in decoder.modules() if isinstance(part, LAYERS)][:-1]


def weight_norm(vae: VAE) -> Tensor:
    """Sum of the squared weights of the decoder, biases apart; []."""
    matrices = [weight.square().sum() for weight in vae.decoder.parameters() if weight.ndim > 1]
    return torch.stack(matrices).sum()
