"""How latents become the tokens of a sequence, and what is predicted of each: the ends of a transformer.

- `CodeTokens`: an embedding in, a categorical out (van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation
  Learning", 2017, section 3.3). Maps laid end to end have a codebook each.
- `RealTokens`: a linear map in, a mixture of diagonal Gaussians out (Tschannen, Eastwood & Mentzer, "GIVT: Generative
  Infinite-Vocabulary Transformers", 2023, section 3.2). A map (C, h, w) is h w tokens of C numbers, a
  vector D tokens of one.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.nets.transformer import Layout
from stage2_prior.sampling import Sampling, code_sizes, draw_categorical, guide

MIN_LOG_STD = math.log(1e-3)
"""Floor under the widths of Gaussians, in standardised latents: point masses would send the likelihood to infinity."""
MAX_LOG_STD = math.log(2.0)
INITIAL_STD = 0.02
CANDIDATES = 32
"""Draws of a guided mixture, of which one is kept by its weight."""


class Tokens(nn.Module, ABC):
    """Both ends for latents of one kind."""

    layout: Layout  # where the T tokens lie

    @abstractmethod
    def split(self, z: Tensor) -> Tensor:
        """z [B, *shape] -> tokens [B, T] or [B, T, C]."""

    @abstractmethod
    def join(self, tokens: Tensor) -> Tensor:
        """The inverse of `split`."""

    @abstractmethod
    def embed(self, tokens: Tensor, at: slice) -> Tensor:
        """Tokens [B, t] or [B, t, C] that stand at positions `at` -> inputs [B, t, W]."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        """Outputs [B, T, W] and the tokens that they predict -> [B, T] nats, float32."""

    @abstractmethod
    def draw(self, output: Tensor, without: Tensor | None, t: int, how: Sampling) -> Tensor:
        """One token for position `t`, [B] or [B, C], from the output [B, W]; `without`: that of the unconditional
        model, for guidance."""


class CodeTokens(Tokens):
    """Codes of one or several maps, each with its own codebook, embedding and head. Bits are codes of two.

    Args:
        spec: of codes or bits.
        width: W.
    """

    first: Tensor

    def __init__(self, spec: LatentSpec, width: int) -> None:
        super().__init__()
        self.layout, sizes = Layout(spec.grids or ((1, spec.num_dims),)), code_sizes(spec)
        self.are_bits = spec.support is Support.BITS
        self.lengths = [h * w for h, w in self.layout.grids]
        self.maps = [i for i, length in enumerate(self.lengths) for _ in range(length)]  # of each token
        self.embedding = nn.Embedding(sum(sizes), width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        firsts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("first", firsts[self.layout.grid_of], persistent=False)  # [T] of each codebook's rows
        nn.init.normal_(self.embedding.weight, std=INITIAL_STD)
        for parameter in self.heads.parameters():  # all codes are about equally likely at the start
            nn.init.normal_(parameter, std=INITIAL_STD)

    def split(self, z: Tensor) -> Tensor:
        return z.long()

    def join(self, tokens: Tensor) -> Tensor:
        return tokens.to(self.embedding.weight.dtype) if self.are_bits else tokens

    def embed(self, tokens: Tensor, at: slice) -> Tensor:
        return self.embedding(tokens + self.first[at])

    def log_prob(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        parts = zip(self.heads, outputs.split(self.lengths, 1), tokens.split(self.lengths, 1), strict=True)
        costs = [
            F.cross_entropy(head(h).float().flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)
            for head, h, codes in parts
        ]
        return -torch.cat(costs, dim=1)

    def draw(self, output: Tensor, without: Tensor | None, t: int, how: Sampling) -> Tensor:
        return draw_categorical(self._logits(self.maps[t], output, without, how), how)

    def _logits(self, number: int, output: Tensor, without: Tensor | None, how: Sampling) -> Tensor:
        """[B, K] of the codebook with that number, for outputs [B, W]."""
        logits = self.heads[number](output).float()
        if without is not None:
            other = self.heads[number](without).float()
            logits = guide(logits.log_softmax(-1), other.log_softmax(-1), how)
        return logits

    def draw_at(self, at: Tensor, output: Tensor, without: Tensor | None, how: Sampling) -> tuple[Tensor, Tensor]:
        """One code for each of the positions `at` [N] from its output [N, W], and how likely it was, [N] nats."""
        drawn, log_prob = torch.zeros_like(at), output.new_zeros(len(at), dtype=torch.float32)
        its_map = self.layout.grid_of.to(at.device)[at]
        for number in range(len(self.heads)):
            rows = (its_map == number).nonzero().squeeze(1)
            logits = self._logits(number, output[rows], None if without is None else without[rows], how)
            drawn[rows] = draw_categorical(logits, how)
            log_prob[rows] = logits.log_softmax(-1).gather(1, drawn[rows, None]).squeeze(1)
        return drawn, log_prob


class RealTokens(Tokens):
    """Real numbers, C a token, with K Gaussians a conditional.

    Args:
        spec: of real numbers, a vector (D,) or a map (C, h, w).
        width: W.
        num_components: K.
    """

    def __init__(self, spec: LatentSpec, width: int, num_components: int) -> None:
        super().__init__()
        self.shape, self.num_components = spec.shape, num_components
        is_map = len(spec.shape) == 3
        self.layout = Layout(((spec.shape[1], spec.shape[2]) if is_map else (1, spec.num_dims),))
        self.channels = spec.shape[0] if is_map else 1
        self.input = nn.Linear(self.channels, width)
        self.head = nn.Linear(width, num_components * (1 + 2 * self.channels))
        nn.init.normal_(self.head.weight, std=INITIAL_STD)
        self._spread_components()

    @torch.no_grad()
    def _spread_components(self) -> None:
        """Start with means over two standard deviations to each side: equal components would stay equal."""
        nn.init.zeros_(self.head.bias)
        means = self.head.bias[self.num_components :].view(2, self.num_components, self.channels)[0]
        if self.num_components > 1:
            means.copy_(torch.linspace(-2.0, 2.0, self.num_components)[:, None].expand_as(means))

    def split(self, z: Tensor) -> Tensor:
        return z.flatten(2).transpose(1, 2) if len(self.shape) == 3 else z[..., None]  # [B, T, C]

    def join(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(-1, *self.shape)

    def embed(self, tokens: Tensor, at: slice) -> Tensor:
        return self.input(tokens)

    def log_prob(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        return self._density(self.head(outputs).float(), tokens.float())

    def _conditionals(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., K (1 + 2 C)] -> log weights [..., K], means and log_stds [..., K, C]."""
        k = self.num_components
        means, log_stds = numbers[..., k:].unflatten(-1, (2, k, self.channels)).unbind(-3)
        log_stds = MAX_LOG_STD - F.softplus(MAX_LOG_STD - log_stds)  # smooth: no gradient is lost at the ceiling
        return torch.log_softmax(numbers[..., :k], dim=-1), means, log_stds.clamp_min(MIN_LOG_STD)

    def _density(self, numbers: Tensor, tokens: Tensor) -> Tensor:
        """log p of tokens [..., C] under what the head gave, [...] nats."""
        log_weights, means, log_stds = self._conditionals(numbers)
        scaled = (tokens[..., None, :] - means) * torch.exp(-log_stds)
        joint = log_weights - (0.5 * scaled.square() + log_stds).sum(-1)  # [..., K]
        return torch.logsumexp(joint, dim=-1) - 0.5 * self.channels * math.log(2 * math.pi)

    def draw(self, output: Tensor, without: Tensor | None, t: int, how: Sampling) -> Tensor:
        numbers = self.head(output).float()
        other = None if without is None else self.head(without).float()
        if how.temperature == 0:
            return self._likeliest(numbers, other, how)
        if other is None:
            return self._draw(numbers, how)
        # Resampling by weight (Rubin, 1987): draws of the conditional, of which each is kept with (p(z|y) / p(z))^w.
        draws = torch.stack([self._draw(numbers, how) for _ in range(CANDIDATES)])  # [S, B, C]
        weights = how.guidance * (self._density(numbers, draws) - self._density(other, draws))  # [S, B]
        kept = draw_categorical(weights.T, Sampling())
        return draws[kept, torch.arange(len(kept), device=kept.device)]

    def _likeliest(self, numbers: Tensor, other: Tensor | None, how: Sampling) -> Tensor:
        """The mean of a component where the density, guided or not, is highest: [B, C]."""
        means = self._conditionals(numbers)[1].movedim(1, 0)  # [K, B, C]
        score = self._density(numbers, means)  # [K, B]
        score = score if other is None else guide(score, self._density(other, means), how)
        return means[score.argmax(0), torch.arange(len(numbers), device=numbers.device)]

    def _draw(self, numbers: Tensor, how: Sampling) -> Tensor:
        log_weights, means, log_stds = self._conditionals(numbers)  # [B, K], [B, K, C]
        component = draw_categorical(log_weights, Sampling(temperature=how.temperature))
        rows = torch.arange(len(component), device=component.device)
        mean, log_std = means[rows, component], log_stds[rows, component]
        return mean + how.temperature * torch.exp(log_std) * torch.randn_like(mean)
