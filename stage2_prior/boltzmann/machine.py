"""A restricted Boltzmann machine as numbers: p(v, h) = exp(b v + c h + v W h) / Z over bits v and hidden bits h.

Given the one side, the bits of the other are independent (Smolensky, "Information Processing in Dynamical Systems:
Foundations of Harmony Theory", 1986), so that both conditionals are exact and a step of block Gibbs draws a side at
once. The hidden side sums out: p(v) = exp(-F(v)) / Z with the free energy

    F(v) = -b v - sum_j log(1 + exp(c_j + (v W)_j))
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Machine:
    """Attributes:
    weights: W [V, H].
    visible_bias: b [V].
    hidden_bias: c [H].
    """

    weights: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor

    def double(self) -> "Machine":
        """The same in float64, without a gradient."""
        return Machine(*(value.detach().double() for value in (self.weights, self.visible_bias, self.hidden_bias)))

    def transposed(self) -> "Machine":
        """The same with the sides exchanged."""
        return Machine(self.weights.T, self.hidden_bias, self.visible_bias)

    def hidden_logits(self, v: Tensor) -> Tensor:
        """Of p(h_j = 1 | v): [..., V] -> [..., H]."""
        return self.hidden_bias + v @ self.weights

    def visible_logits(self, h: Tensor) -> Tensor:
        """Of p(v_i = 1 | h): [..., H] -> [..., V]."""
        return self.visible_bias + h @ self.weights.T

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(b v + c h + v W h), [..., V] -> [...] nats."""
        return -(v @ self.visible_bias) - F.softplus(self.hidden_logits(v)).sum(-1)

    @torch.no_grad()
    def walk(self, v: Tensor, steps: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Where chains at v [n, V] are after so many steps of block Gibbs on p(v, h)^(1 / temperature); at 0 each step
        takes the likelier value of every bit. `generator` None: torch's global one."""
        for _ in range(steps):
            h = draw_bits(self.hidden_logits(v), temperature, generator)
            v = draw_bits(self.visible_logits(h), temperature, generator)
        return v


def draw_bits(logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Bits of `logits` / `temperature`, in their dtype."""
    if temperature == 0:
        return (logits > 0).to(logits.dtype)
    noise = torch.rand(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
    return (noise < (logits / temperature).sigmoid()).to(logits.dtype)
