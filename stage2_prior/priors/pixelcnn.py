"""A gated PixelCNN over one map of codes: the prior of the VQ-VAE paper (van den Oord, Vinyals & Kavukcuoglu, "Neural
Discrete Representation Learning", 2017, section 3.3), kept as the published baseline.
"""

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.labels import LabelledPrior
from stage2_prior.nets.gated_pixelcnn import GatedPixelCNN
from stage2_prior.prior import check_support
from stage2_prior.sampling import CODE_KNOBS, Sampling, draw_categorical, guide

SAMPLE_ROWS = 512
DENSITY_PLACES = 2**14
"""Places whose density is computed at once where no gradient is wanted: bounded memory for any batch."""


class PixelCNN(LabelledPrior):
    """Args:
        spec: of one map of codes.
        width: channels of the stacks.
        depth: layers.
        kernel_size: of the convolutions, odd.
        conditional: whether labels are given.
        label_dropout: share of a conditional training that sees no label, and is what guidance leads away from.

    Raises:
        PriorError: for numbers out of range, or labels that are not there.
    """

    def __init__(
        self,
        spec: LatentSpec,
        width: int = 64,
        depth: int = 8,
        kernel_size: int = 5,
        conditional: bool = False,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__(spec, conditional, label_dropout, CODE_KNOBS)
        (self.grid,) = spec.grids
        self.net = GatedPixelCNN(spec.num_codes[0], width, depth, kernel_size, self.num_labels)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if len(spec.grids) > 1:
            return f"pixelcnn models one map of codes; these latents are codes of {len(spec.grids)} maps"
        return check_support("pixelcnn models one map of codes", spec, Support.CODES)

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        rows = len(z) if torch.is_grad_enabled() else max(1, DENSITY_PLACES // self.spec.num_dims)
        blocks = zip(z.long().split(max(1, rows)), labels.split(max(1, rows)), strict=True)
        return torch.cat([self._block_log_prob(*block) for block in blocks])

    def _block_log_prob(self, z: Tensor, labels: Tensor) -> Tensor:
        logits = self.net(z.unflatten(1, self.grid), labels).flatten(2)  # [B, K, T]
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            return -torch.nn.functional.cross_entropy(logits.float(), z, reduction="none").sum(1)

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        return torch.cat([self._generate(block, how) for block in labels.split(SAMPLE_ROWS)])

    def _generate(self, labels: Tensor, how: Sampling) -> Tensor:
        """One block of samples [n, T]; guided ones run beside their unconditional twins."""
        n = len(labels)
        if not how.guidance:
            return self.net.generate(self.grid, labels, lambda logits: draw_categorical(logits, how)).flatten(1)

        def draw(logits: Tensor) -> Tensor:
            given, without = logits.log_softmax(-1).chunk(2)
            return draw_categorical(guide(given, without, how), how).repeat(2)

        twins = torch.cat([labels, torch.full_like(labels, self.no_class)])
        return self.net.generate(self.grid, twins, draw)[:n].flatten(1)
