"""Strided convolutions, for images of any size: an image is padded up to a multiple of the total stride, and the
decoder's output is cropped back."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.net import Encoder, Net
from stage1_vae.nets.products import Convolution, TransposedConvolution


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `multiple`: no edge that the data lack."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def smallest_grid(height: int, width: int, stride: int) -> tuple[int, int]:
    """Height and width of the last map, for an image padded to a multiple of the total `stride`."""
    return math.ceil(height / stride), math.ceil(width / stride)


def latent_input(latent_shape: tuple[int, ...], grid: tuple[int, int, int]) -> nn.Linear | nn.Conv2d:
    """The decoder's first layer: a convolution for a latent map of the same height and width as `grid`, which keeps
    what is where, else a linear map."""
    if latent_shape[1:] == grid[1:]:
        return Convolution(latent_shape[0], grid[0], kernel_size=3, padding=1)
    return nn.Linear(math.prod(latent_shape), math.prod(grid))


def to_grid(layer: nn.Linear | nn.Conv2d, z: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Latents [B, *latent_shape] through the first layer: [B, *grid]."""
    return layer(z) if isinstance(layer, nn.Conv2d) else layer(z.flatten(1)).view(-1, *grid)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that takes a lone value a channel, which has no variance, by the running statistics: a last
    batch of one image, or a rank's share of one, whose map has one place."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[0] * input.shape[2] * input.shape[3] > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvEncoder(Encoder):
    """One 4x4 convolution of stride 2 a stage; features are the flattened last map."""

    def __init__(self, image_shape: tuple[int, int, int], channels: Sequence[int], batch_norm: bool) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        self.stride = 2 ** len(channels)
        stages: list[nn.Module] = []
        for n, m in pairwise([in_channels, *channels]):
            stages.append(Convolution(n, m, kernel_size=4, stride=2, padding=1, bias=not batch_norm))
            stages += [BatchNorm(m)] * batch_norm + [nn.ReLU()]
        self.stages = nn.Sequential(*stages)
        self.features_shape = (channels[-1], *smallest_grid(height, width, self.stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(pad_to_multiple(x, self.stride))  # [B, channels, h, w]


class ConvDecoder(nn.Module):
    """A linear map (of a latent map: a convolution) to the smallest grid, then one transposed 4x4 convolution of stride
    2 a stage."""

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, int, int],
        channels: Sequence[int],
        batch_norm: bool,
    ) -> None:
        super().__init__()
        out_channels, self.height, self.width = output_shape
        self.grid = (channels[-1], *smallest_grid(self.height, self.width, 2 ** len(channels)))
        self.input = latent_input(latent_shape, self.grid)
        stages: list[nn.Module] = []
        for n, m in pairwise(reversed(channels)):
            stages.append(TransposedConvolution(n, m, kernel_size=4, stride=2, padding=1, bias=not batch_norm))
            stages += [BatchNorm(m)] * batch_norm + [nn.ReLU()]
        self.stages = nn.Sequential(nn.ReLU(), *stages)
        self.output = TransposedConvolution(channels[0], out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = to_grid(self.input, z, self.grid)  # [B, channels, h, w]
        output = self.output(self.stages(h))  # [B, C, >=H, >=W]
        return output[..., : self.height, : self.width].contiguous()


class Conv(Net):
    """Args:
    channels: width of each stage; the image shrinks by two at each.
    batch_norm: batch normalisation after each hidden convolution.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128), batch_norm: bool = False) -> None:
        if not channels or min(channels) < 1:
            raise ValueError(f"net.channels needs at least one positive width, got {list(channels)}")
        self.channels, self.batch_norm = tuple(channels), batch_norm

    def encoder(self, image_shape: tuple[int, int, int]) -> ConvEncoder:
        return ConvEncoder(image_shape, self.channels, self.batch_norm)

    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> ConvDecoder:
        return ConvDecoder(latent_shape, output_shape, self.channels, self.batch_norm)
