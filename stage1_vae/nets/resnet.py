"""Pre-activation residual nets (He et al., "Identity Mappings in Deep Residual Networks", 2016), for images of any
size. Group normalisation, so that a batch of one means the same as a batch of a thousand."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.net import Encoder, Net
from stage1_vae.nets.conv import latent_input, pad_to_multiple, smallest_grid, to_grid
from stage1_vae.nets.products import Convolution


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(channels),
            nn.SiLU(),
            Convolution(channels, channels, kernel_size=3, padding=1),
            norm(channels),
            nn.SiLU(),
            Convolution(channels, channels, kernel_size=3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResNetEncoder(Encoder):
    """A 3x3 stem, then per stage: halve the image, widen, residual blocks."""

    def __init__(self, image_shape: tuple[int, int, int], channels: Sequence[int], num_blocks: int) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        self.stride = 2 ** len(channels)
        stages: list[nn.Module] = [Convolution(in_channels, channels[0], kernel_size=3, padding=1)]
        for n, m in pairwise([channels[0], *channels]):
            stages.append(Convolution(n, m, kernel_size=4, stride=2, padding=1))
            stages += [ResidualBlock(m) for _ in range(num_blocks)]
        self.stages = nn.Sequential(*stages, norm(channels[-1]), nn.SiLU())
        self.features_shape = (channels[-1], *smallest_grid(height, width, self.stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(pad_to_multiple(x, self.stride))  # [B, channels, h, w]


class ResNetDecoder(nn.Module):
    """The encoder's mirror: residual blocks, then nearest-neighbour doubling and a convolution, which leaves no
    checkerboard (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016)."""

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, int, int],
        channels: Sequence[int],
        num_blocks: int,
    ) -> None:
        super().__init__()
        out_channels, self.height, self.width = output_shape
        self.grid = (channels[-1], *smallest_grid(self.height, self.width, 2 ** len(channels)))
        self.input = latent_input(latent_shape, self.grid)
        stages: list[nn.Module] = []
        for n, m in pairwise([*reversed(channels), channels[0]]):
            stages += [ResidualBlock(n) for _ in range(num_blocks)]
            stages += [nn.Upsample(scale_factor=2), Convolution(n, m, kernel_size=3, padding=1)]
        self.stages = nn.Sequential(*stages, norm(channels[0]), nn.SiLU())
        self.output = Convolution(channels[0], out_channels, kernel_size=3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.silu(to_grid(self.input, z, self.grid))  # [B, channels, h, w]
        output = self.output(self.stages(h))  # [B, C, >=H, >=W]
        return output[..., : self.height, : self.width].contiguous()


class ResNet(Net):
    """Args:
    channels: width of each stage; the image shrinks by two at each.
    num_blocks: residual blocks a stage.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128), num_blocks: int = 2) -> None:
        if not channels or min(channels) < 1:
            raise ValueError(f"net.channels needs at least one positive width, got {list(channels)}")
        self.channels, self.num_blocks = tuple(channels), num_blocks

    def encoder(self, image_shape: tuple[int, int, int]) -> ResNetEncoder:
        return ResNetEncoder(image_shape, self.channels, self.num_blocks)

    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> ResNetDecoder:
        return ResNetDecoder(latent_shape, output_shape, self.channels, self.num_blocks)
