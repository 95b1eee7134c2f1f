"""Gated PixelCNN (van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu, "Conditional Image Generation
with PixelCNN Decoders", 2016, sections 2.1-2.3 and figure 2).

Two stacks of convolutions avoid the blind spot of masked ones: the vertical stack at row r knows all rows above, the
horizontal one at column c what is left of it in its row, and takes from the vertical at each layer. Each layer is
gated, tanh(a) sigmoid(b), with a bias a class in a and b; the horizontal stack is residual. Nothing is masked: inputs
are shifted by a row or a column at the first layer, and padded above and to the left at all.

Sampling keeps the features of every layer: a row of the vertical stack is computed once the row above is drawn, a place
of the horizontal one once its neighbour is, so that a whole map costs one forward pass (Ramachandran et al., "Fast
Generation for Convolutional Autoregressive Models", 2017).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.fitting import PriorError


class GatedLayer(nn.Module):
    """One layer of both stacks, [B, C, h, w] each.

    Args:
        channels: C.
        kernel_size: odd; rows above, and columns to both sides or to the left, within half of it are seen.
        num_labels: different biases.
        first: whether a place must not see itself.
    """

    def __init__(self, channels: int, kernel_size: int, num_labels: int, first: bool) -> None:
        super().__init__()
        self.reach, self.first = kernel_size // 2, first
        self.vertical = nn.Conv2d(channels, 2 * channels, (self.reach + 1, kernel_size), padding=(0, self.reach))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, self.reach + 1))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        self.bias = nn.Embedding(num_labels, 4 * channels)
        nn.init.normal_(self.bias.weight, std=0.02)

    def forward(self, v: Tensor, h: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What both stacks say after this layer; `labels` [B]."""
        shift = int(self.first)
        above = F.pad(v, (0, 0, self.reach + shift, 0))[:, :, : v.shape[2] + self.reach]
        left = F.pad(h, (self.reach + shift, 0))[..., : h.shape[3] + self.reach]
        new_v, across = self.row(above, labels)
        return new_v, self.place(left, across, h, labels)

    def row(self, above: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The vertical stack where it sees `above` [B, C, reach + rows, w]: its features [B, C, rows, w], and what it
        tells the horizontal one."""
        pre = self.vertical(above)
        return gated(pre + self._biases(labels)[0]), self.across(pre)

    def place(self, left: Tensor, across: Tensor, h: Tensor, labels: Tensor) -> Tensor:
        """The horizontal stack where it sees `left` [B, C, rows, reach + columns] and came as `h`."""
        new = self.output(gated(self.horizontal(left) + across + self._biases(labels)[1]))
        return new if self.first else h + new

    def _biases(self, labels: Tensor) -> tuple[Tensor, ...]:
        return self.bias(labels)[:, :, None, None].chunk(2, dim=1)


def gated(pre: Tensor) -> Tensor:
    a, b = pre.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedPixelCNN(nn.Module):
    """Codes [B, h, w] -> logits [B, K, h, w]; those of a place depend on the codes before it, row by row.

    Args:
        num_codes: K.
        width: channels of the stacks.
        depth: layers.
        kernel_size: of the convolutions, odd.
        num_labels: different labels, that of no class included.

    Raises:
        PriorError: for a number out of range.
    """

    def __init__(self, num_codes: int, width: int, depth: int, kernel_size: int, num_labels: int) -> None:
        super().__init__()
        if min(width, depth) < 1:
            raise PriorError(f"give a width and a depth of at least 1, not {width} and {depth}")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise PriorError(f"prior.kernel_size={kernel_size}: give an odd number of at least 3")
        self.embedding = nn.Embedding(num_codes, width)
        self.layers = nn.ModuleList(GatedLayer(width, kernel_size, num_labels, i == 0) for i in range(depth))
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, num_codes, 1)
        )

    def _layers(self) -> list[GatedLayer]:
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        v = h = self.embed(codes)
        for layer in self._layers():
            v, h = layer(v, h, labels)
        return self.head(h)

    def embed(self, codes: Tensor) -> Tensor:
        """[B, h, w] -> [B, C, h, w]."""
        return self.embedding(codes).movedim(-1, 1)

    def generate(self, grid: tuple[int, int], labels: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Ancestral sampling, [n, h, w]: `draw` takes logits [n, K] and returns codes [n]; `labels` [n]."""
        height, width = grid
        layers = self._layers()
        reach, channels = layers[0].reach, self.embedding.embedding_dim
        codes = torch.zeros(len(labels), height, width, dtype=torch.int64, device=labels.device)
        # What each layer sees: the maps below the vertical stack, `reach` rows of padding first (and one more at the
        # first layer, whose own row is not yet known), and the row below the horizontal one, padded to the left.
        weight = self.embedding.weight
        maps = [weight.new_zeros(len(labels), channels, reach + int(at.first) + height, width) for at in layers]
        for r in range(height):
            across = []
            for i, layer in enumerate(layers):
                v, to_horizontal = layer.row(maps[i][:, :, r : r + reach + 1], labels)
                across.append(to_horizontal)
                if i + 1 < len(layers):
                    maps[i + 1][:, :, r + reach] = v[:, :, 0]
            rows = [weight.new_zeros(len(labels), channels, 1, reach + int(at.first) + width) for at in layers]
            for c in range(width):
                h = weight.new_zeros(len(labels), channels, 1, 1)  # the first layer has no residual
                for i, layer in enumerate(layers):
                    if i:
                        rows[i][..., reach + c] = h[..., 0]
                    h = layer.place(rows[i][..., c : c + reach + 1], across[i][..., c : c + 1], h, labels)
                codes[:, r, c] = draw(self.head(h).flatten(1))
                rows[0][..., reach + 1 + c] = self.embedding(codes[:, r, c])[..., None]
            maps[0][:, :, reach + 1 + r] = self.embed(codes[:, r])
        return codes
