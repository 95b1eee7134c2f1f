"""A decoder-only transformer as a density over latents of any kind, p(z) = prod_t p(z_t | z_1 ... z_(t-1)).

Codes are what made the two-stage recipe famous (van den Oord et al., "Neural Discrete Representation Learning", 2017;
Esser, Rombach & Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021); maps and vectors of real
numbers go the way of GIVT (Tschannen et al., 2023). The first input is a prefix: what class, or none
(`stage2_prior.labels`).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.labels import LabelledPrior
from stage2_prior.nets.decoding import Decoder
from stage2_prior.nets.tokens import CodeTokens, RealTokens, Tokens
from stage2_prior.nets.transformer import Transformer as Net
from stage2_prior.sampling import CODE_KNOBS, Sampling, code_sizes

SAMPLE_ROWS, CACHE_BYTES = 512, 2**28
"""Sequences drawn together: at most so many, and no more than a cache of this size holds."""
DENSITY_TOKENS = 2**12
"""Tokens whose density is computed at once where no gradient is wanted: bounded memory for any batch, and what fits
a cache is a fifth faster."""


class Transformer(LabelledPrior):
    """Args:
        width: of a token inside.
        depth: number of blocks.
        num_heads: attention heads a block.
        dropout: share of activations set to zero in training.
        positions: learned, or rotary in two dimensions.
        num_components: Gaussians a conditional; of no use to codes.
        conditional: whether labels are given.
        label_dropout: share of a conditional training that sees no label, and is what guidance leads away from.
        max_tokens: longest sequence that is accepted: attention costs its square.

    Raises:
        PriorError: for numbers out of range or that do not fit together, or labels that are not there.
    """

    version: ClassVar[int] = 3
    tokens: Tokens

    def __init__(
        self,
        spec: LatentSpec,
        width: int = 256,
        depth: int = 6,
        num_heads: int = 8,
        dropout: float = 0.1,
        positions: str = "learned",
        num_components: int = 16,
        conditional: bool = False,
        label_dropout: float = 0.1,
        max_tokens: int = 4096,
    ) -> None:
        knobs = CODE_KNOBS if code_sizes(spec) else frozenset({"temperature"})
        super().__init__(spec, conditional, label_dropout, knobs)
        if not 0 <= dropout < 1:
            raise PriorError(f"prior.dropout={dropout}: give a share from 0 to below 1")
        if num_components < 1:
            raise PriorError(f"prior.num_components={num_components}: give at least 1")
        self.tokens = CodeTokens(spec, width) if code_sizes(spec) else RealTokens(spec, width, num_components)
        if (num := self.tokens.layout.num_tokens) > max_tokens:
            raise PriorError(
                f"these latents are {num} tokens, more than prior.max_tokens={max_tokens}; "
                "raise it, or make a smaller map"
            )
        self.net = Net(self.tokens.layout, width, depth, num_heads, dropout, positions)
        self.prefix = nn.Embedding(self.num_labels, width)
        nn.init.normal_(self.prefix.weight, std=0.02)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if spec.support is Support.SPHERE:
            return "transformer models codes, bits and real numbers; these latents lie on a sphere"
        if spec.support is Support.REAL and len(spec.shape) not in (1, 3):
            return f"transformer models vectors (D,) and maps (C, h, w); these latents are {spec.shape}"
        return None

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        rows = max(1, len(z) if torch.is_grad_enabled() else DENSITY_TOKENS // self.tokens.layout.num_tokens)
        return torch.cat(
            [self._block_log_prob(*block) for block in zip(z.split(rows), labels.split(rows), strict=True)]
        )

    def _block_log_prob(self, z: Tensor, labels: Tensor) -> Tensor:
        tokens = self.tokens.split(z)
        inputs = self.tokens.embed(tokens[:, :-1], slice(0, tokens.shape[1] - 1))  # [B, T - 1, W]
        outputs = self.net(torch.cat([self.prefix(labels)[:, None], inputs], dim=1))
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            return self.tokens.log_prob(outputs.float(), tokens).sum(1)

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        cached = sum(layer.nbytes for layer in self.net.new_cache(2 if how.guidance else 1))  # a guided one has a twin
        rows = max(1, min(SAMPLE_ROWS, CACHE_BYTES // cached))
        drawn = [self._generate(block, how) for block in labels.split(rows)]
        return torch.cat(drawn)  # outside of inference mode, so that what is drawn can be trained on

    def _generate(self, labels: Tensor, how: Sampling) -> Tensor:
        """One block of samples, a token at a time from a cache; guided ones run beside their unconditional twins."""
        n = len(labels)
        drawn: list[Tensor] = []
        with torch.inference_mode():  # a tenth less for each small kernel
            h = self.prefix(labels)  # [n, W]
            if how.guidance:
                h = torch.cat([h, self.prefix(torch.full_like(labels, self.no_class))])
            decoder = Decoder(self.net, len(h))
            for t in range(self.tokens.layout.num_tokens):
                if t:
                    h = self.tokens.embed(drawn[-1][:, None], slice(t - 1, t))[:, 0]
                    h = torch.cat([h, h]) if how.guidance else h
                output = decoder.step(h, t)  # [n, W], or [2 n, W]
                drawn.append(self.tokens.draw(output[:n], output[n:] if how.guidance else None, t, how))
            return self.tokens.join(torch.stack(drawn, dim=1))
