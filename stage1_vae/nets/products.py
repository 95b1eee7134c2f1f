"""Convolutions that are computed as matrix products where these are faster: many channels in few places.

On a processor a convolution of 512 to 1024 channels whose output is a single place takes eight times as long as the
product of the same numbers, a transposed one between small maps 1.4 times. The same sums are taken in another order, so
results agree to float32 rounding; which way is taken hangs on shapes alone, so that a run repeats itself to the bit.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]
Index = tuple[Any, ...]

WEIGHTS_A_PLACE = 2**17
"""A convolution is a matrix product from so many weights on for each place of its output: measured between 1 and 49
places, 32 and 1024 channels, with 16 and 128 images, on two cores with AVX2."""
MANY_CHANNELS, FEW_PLACES = 512, 64
"""A transposed convolution is one from so many channels, and up to so many places, of its input."""


def is_plain(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> bool:
    """Whether products can stand for `layer` on `x`: on a processor, in full precision, over whole neighbourhoods."""
    if torch.jit.is_tracing() or torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
        return False
    usual = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return usual and x.ndim == 4 and x.shape[1] == layer.in_channels


class Convolution(nn.Conv2d):
    """As torch's, with the same parameters; what is a product comes with channels last."""

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if isinstance(padding, str) or not is_plain(self, input):
            return super().forward(input)
        sides = zip(input.shape[2:], padding, self.kernel_size, self.stride, strict=True)
        height, width = ((side + 2 * p - k) // s + 1 for side, p, k, s in sides)
        places = height * width
        weights_a_channel = self.in_channels * math.prod(self.kernel_size)  # the weight itself may be computed anew
        if not 0 < places * WEIGHTS_A_PLACE <= self.out_channels * weights_a_channel:
            return super().forward(input)
        kernel, stride, size = _pair(self.kernel_size), _pair(self.stride), _pair(input.shape[2:])
        shape = torch.Size((len(input), height, width, *kernel, self.in_channels))
        patches: Tensor = Patches.apply(input.permute(0, 2, 3, 1), shape, stride, _pair(padding), size)
        rows = patches.permute(0, 1, 2, 5, 3, 4).reshape(-1, weights_a_channel)  # [B h w, C k l], as weights lie
        output = F.linear(rows, self.weight.flatten(1), self.bias)
        return output.view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)


class TransposedConvolution(nn.ConvTranspose2d):
    """As torch's, with the same parameters; what is a product comes with channels last."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        padding = self.padding
        if output_size is not None or isinstance(padding, str) or not is_plain(self, input):
            return super().forward(input, output_size)
        if self.in_channels < MANY_CHANNELS or math.prod(input.shape[2:]) > FEW_PLACES:
            return super().forward(input)
        batch, channels, height, width = input.shape
        kernel, stride, padding = _pair(self.kernel_size), _pair(self.stride), _pair(padding)
        extra = _pair(self.output_padding)
        size = (
            (height - 1) * stride[0] - 2 * padding[0] + kernel[0] + extra[0],
            (width - 1) * stride[1] - 2 * padding[1] + kernel[1] + extra[1],
        )
        rows = input.permute(0, 2, 3, 1).reshape(-1, channels)  # [B h w, C]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # [C, k l O]
        patches = (rows @ weight).view(batch, height, width, *kernel, self.out_channels)
        output: Tensor = Overlap.apply(patches, stride, padding, size)
        return (output if self.bias is None else output + self.bias).permute(0, 3, 1, 2)


def _pair(values: tuple[int, ...]) -> Pair:
    height, width = values
    return height, width


class Overlap(torch.autograd.Function):
    """The sum of patches [B, h, w, k, l, O], one around each place, in a map [B, H, W, O].

    What torch calls fold, with channels last: every addition is one over whole rows of channels.
    """

    @staticmethod
    def forward(patches: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        output = patches.new_zeros(len(patches), *size, patches.shape[-1])
        for places, tap, reached in _taps(patches.shape, stride, padding, size):
            output[reached] += patches[places + tap]
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Pair, Pair, Pair], output: Tensor) -> None:
        ctx.shape, ctx.how = inputs[0].shape, inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return Patches.apply(gradients[0], ctx.shape, *ctx.how), None, None, None


class Patches(torch.autograd.Function):
    """The reverse of `Overlap`: the patches of `shape` of a map [B, H, W, O]; zeros where they reach beyond it."""

    @staticmethod
    def forward(output: Tensor, shape: torch.Size, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        patches = output.new_zeros(shape)
        for places, tap, reached in _taps(shape, stride, padding, size):
            patches[places + tap] = output[reached]
        return patches

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.Size, Pair, Pair, Pair], output: Tensor) -> None:
        ctx.how = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return Overlap.apply(gradients[0], *ctx.how), None, None, None, None


def _taps(shape: torch.Size, stride: Pair, padding: Pair, size: Pair) -> list[tuple[Index, Index, Index]]:
    """Of each tap of the patches: the places whose tap lies on the map, the tap, and where on the map it lies."""
    _, height, width, rows, columns, _ = shape
    found = []
    for i in range(rows):
        for j in range(columns):
            down, across = (
                _reach(i, height, stride[0], padding[0], size[0]),
                _reach(j, width, stride[1], padding[1], size[1]),
            )
            if down and across:
                found.append(((slice(None), down[0], across[0]), (i, j), (slice(None), down[1], across[1])))
    return found


def _reach(tap: int, num: int, stride: int, padding: int, size: int) -> tuple[slice, slice] | None:
    """Along one axis: the places n, of `num`, for which n stride + tap - padding is one of `size`, and these."""
    first = max(0, -((tap - padding) // stride))
    end = min(num, (size - 1 + padding - tap) // stride + 1)
    if end <= first:
        return None
    start = first * stride + tap - padding
    return slice(first, end), slice(start, start + (end - first - 1) * stride + 1, stride)
