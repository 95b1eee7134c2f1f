"""Linear layers of which some connections are masked, so that outputs see some of the inputs alone.

Every unit has a degree, and a connection exists where it does not lower the degree (Germain, Gregor, Murray &
Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", 2015, equations 12-13).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedLinear(nn.Linear):
    """A linear layer [B, in] -> [B, out] whose connection i -> j exists where degree_out[j] >= degree_in[i].

    Weights start uniform within gain / sqrt(inputs that the unit really sees).
    """

    mask: Tensor

    def __init__(self, degree_in: Tensor, degree_out: Tensor, gain: float = 1.0) -> None:
        super().__init__(len(degree_in), len(degree_out))
        self.register_buffer("mask", (degree_out[:, None] >= degree_in[None, :]).float(), persistent=False)
        with torch.no_grad():
            self.weight.uniform_(-gain, gain).div_(self.mask.sum(1, keepdim=True).clamp_min(1).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)

    def block(self, x: Tensor, rows: slice, num_inputs: int) -> Tensor:
        """The outputs `rows` alone, which see exactly the first `num_inputs` inputs: [B, rows]."""
        return F.linear(x[:, :num_inputs], self.weight[rows, :num_inputs], self.bias[rows])


def spread_degrees(width: int, num_dims: int) -> Tensor:
    """Degrees 1 ... D - 1, sorted and equally frequent, [width]; all 1 where D is 1."""
    return 1 + torch.arange(width) * max(num_dims - 1, 1) // width
