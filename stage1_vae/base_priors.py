"""Priors that stage 1 trains against: what a bottleneck declares as its `base_prior`."""

import torch
from torch import Tensor, nn

from stage1_vae.posteriors import LOG_2PI


class StandardNormal(nn.Module):
    """N(0, I): the base prior of every Gaussian bottleneck. `shape` is that of one latent event."""

    anchor: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device and the dtype

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[..., *shape] -> [...] nats; `context` is ignored."""
        return -0.5 * (z.square() + LOG_2PI).flatten(-len(self.shape)).sum(-1)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, *shape]; `context` is ignored."""
        return torch.randn(n, *self.shape, dtype=self.anchor.dtype, device=self.anchor.device)

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.log_prob(z, context)
