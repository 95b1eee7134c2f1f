"""Maximum mean discrepancy between two sets of latents, with the inverse multiquadratic kernels of Wasserstein
autoencoders (Tolstikhin, Bousquet, Gelly & Schoelkopf, "Wasserstein Auto-Encoders", 2018, section 4):

    k(a, b) = mean over s of c_s / (c_s + |a - b|^2),   c_s = 2 D s

whose widths c_s stand around 2 D, the mean squared distance of two draws of N(0, I) in D dimensions.
"""

import torch
from torch import Tensor

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd_squared(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate (Gretton et al., "A Kernel Two-Sample Test", 2012, equation 3) from a and b, [B, D] each,
    two at least; at most 2, without a unit; below 0 by chance where both are alike. []."""
    with torch.autocast(a.device.type, enabled=False):  # distances are differences of large numbers
        num, dims = a.shape
        both = torch.cat([a, b]).float()
        squares = both.square().sum(1)
        distance = (squares[:, None] + squares - 2 * both @ both.T).clamp_min(0)  # [2 B, 2 B]
        widths = 2 * dims * distance.new_tensor(SCALES)
        kernel = (widths / (widths + distance[:, :, None])).mean(2)  # [2 B, 2 B]
        within = kernel[:num, :num].sum() + kernel[num:, num:].sum() - kernel.diagonal().sum()
        return within / (num * (num - 1)) - 2 * kernel[:num, num:].mean()
