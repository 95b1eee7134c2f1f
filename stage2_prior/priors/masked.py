"""A network that fills in masked codes: trained on every share of masks, sampled in a few parallel steps.

A bidirectional transformer gives p(z_i | z_K) for every i outside of any set K of known codes. Filling them in one by
one, in the order sigma, has the density p_sigma(z) = prod_t p(z_sigma(t) | z_sigma(<t)), and in a random order p(z) =
E_sigma p_sigma(z). By Jensen's inequality (Uria, Murray & Larochelle, "A Deep and Tractable Density Estimator", 2014,
equation 7; Hoogeboom et al., "Autoregressive Diffusion Models", 2022, equations 2 to 5)

    log p(z) >= E_sigma log p_sigma(z) = E_(n, K) [T / n  sum over i outside of K of log p(z_i | z_K)]

with n uniform in 1 ... T and K a random set of the T - n codes that are known: one pass of the network estimates it
without bias. Training maximises that; MaskGIT (Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022)
leaves out the weights, and so minimises no bound.

`log_prob` is the mean of `num_masks` such estimates, of which each takes n from a stratum of its own. Masks are made of
the latent itself (`stage2_prior.row_noise`): it has one number, and the noise is in the spread over latents. A mean
over latents is a lower bound of the mean log p(z), up to its standard error; of one latent it is an estimate. With
classes, log sum_y p(y) p(z|y) of estimates lies a little above the bound. Of up to five codes it is log p(z) itself:
the sum over all orders goes from set to set, f(K + i) = sum over i of f(K) p(z_i | z_K), in 2^T - 1 passes.

Samples take `num_steps` passes (MaskGIT, section 3.2): in each, all masked codes are drawn at once, and those that were
likeliest stay, but for Gumbel noise that sinks to zero; after the share r of the steps cos(pi r / 2) of all are still
masked. Codes of one step do not know of each other, so these samples do not follow p(z). `num_steps: null` takes T
passes, one code each in a random order, and follows it; so do as many steps as there are codes.
"""

import math

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.labels import LabelledPrior
from stage2_prior.nets.tokens import INITIAL_STD, CodeTokens
from stage2_prior.nets.transformer import Transformer
from stage2_prior.prior import Exactness, check_support
from stage2_prior.row_noise import RowNoise
from stage2_prior.sampling import CODE_KNOBS, Sampling, code_sizes

FEW_CODES = 5
"""Up to so many, the density is exact: all sets of known codes are 31."""
DENSITY_TOKENS = 2**12
"""Tokens that go through the network together where no gradient is wanted."""
SAMPLE_ELEMENTS = 2**24
"""Logits of a step of sampling, at most."""


class Masked(LabelledPrior):
    """Args:
        width: of a token inside.
        depth: number of blocks.
        num_heads: attention heads a block.
        dropout: share of activations set to zero in training.
        positions: learned, or rotary in two dimensions.
        num_steps: passes that a sample takes; None, or as many as there are codes: one a code, in a random order.
        choice_temperature: of the noise in the choice of the codes that stay, at the first step.
        num_masks: of which the estimate of a density is the mean.
        conditional: whether labels are given.
        label_dropout: share of a conditional training that sees no label, and is what guidance leads away from.
        max_tokens: longest sequence that is accepted: attention costs its square.

    Raises:
        PriorError: for numbers out of range or that do not fit together, or labels that are not there.
    """

    log_prob_is = Exactness.ESTIMATE
    mask: nn.Parameter

    def __init__(
        self,
        spec: LatentSpec,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
        positions: str = "learned",
        num_steps: int | None = 8,
        choice_temperature: float = 4.5,
        num_masks: int = 8,
        conditional: bool = False,
        label_dropout: float = 0.1,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(spec, conditional, label_dropout, CODE_KNOBS)
        if not 0 <= dropout < 1:
            raise PriorError(f"prior.dropout={dropout}: give a share from 0 to below 1")
        if num_steps is not None and num_steps < 1:
            raise PriorError(f"prior.num_steps={num_steps}: give at least 1, or null for one a code")
        if num_masks < 1:
            raise PriorError(f"prior.num_masks={num_masks}: give at least 1")
        if not 0 <= choice_temperature < math.inf:
            raise PriorError(f"prior.choice_temperature={choice_temperature}: give 0 or more")
        if spec.num_dims > max_tokens:
            raise PriorError(
                f"these latents are {spec.num_dims} tokens, more than prior.max_tokens={max_tokens}; "
                "raise it, or make a smaller map"
            )
        self.num_masks, self.choice_temperature = num_masks, choice_temperature
        self.num_steps = None if num_steps is None or num_steps >= spec.num_dims else num_steps
        self.is_exact = spec.num_dims <= FEW_CODES
        self.passes *= 2**spec.num_dims - 1 if self.is_exact else num_masks
        self.tokens = CodeTokens(spec, width)
        self.net = Transformer(self.tokens.layout, width, depth, num_heads, dropout, positions, causal=False)
        self.mask = nn.Parameter(INITIAL_STD * torch.randn(width))
        self.label = nn.Embedding(self.num_labels, width)
        nn.init.normal_(self.label.weight, std=INITIAL_STD)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("masked models codes and bits", spec, Support.CODES, Support.BITS)

    @property
    def caveats(self) -> list[str]:
        said = []
        if not self.is_exact:
            said.append(f"its densities are estimates of a lower bound, of {self.num_masks} random masks each.")
        if self.num_steps is not None:
            said.append(
                f"its samples take {self.num_steps} parallel steps and do not follow its density; "
                "prior.num_steps=null makes samples that do."
            )
        return said

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        rows = max(1, len(z) if torch.is_grad_enabled() else DENSITY_TOKENS // self.spec.num_dims)
        density = self._over_all_orders if self.is_exact else self._estimate
        return torch.cat([density(*block) for block in zip(z.split(rows), labels.split(rows), strict=True)])

    def _over_all_orders(self, z: Tensor, labels: Tensor) -> Tensor:
        """log p(z) of one block, [B]; a set of known codes is a number whose bit i says whether code i is in it."""
        num = self.spec.num_dims
        log_sums = [z.new_full((len(z),), -math.inf, dtype=torch.float32) for _ in range(2**num)]
        log_sums[0] = torch.zeros_like(log_sums[0])
        for known in range(2**num - 1):
            places = [i for i in range(num) if not known >> i & 1]
            masked = torch.zeros(z.shape, dtype=torch.bool, device=z.device)
            masked[:, places] = True
            log_prob = self._log_conditionals(z, masked, labels)
            for i in places:
                with_i = known | 1 << i
                log_sums[with_i] = torch.logaddexp(log_sums[with_i], log_sums[known] + log_prob[:, i])
        return log_sums[-1] - math.lgamma(num + 1)

    def _estimate(self, z: Tensor, labels: Tensor) -> Tensor:
        """The mean over all masks of one block, [B]."""
        strata = torch.arange(self.num_masks, device=z.device)
        level, orders = self._own_masks(z)
        level = (strata + level) / self.num_masks  # [B, M] in [0, 1)
        costs = [self._cost(z, labels, level[:, m], orders[:, m]) for m in range(self.num_masks)]
        return -torch.stack(costs).mean(0)

    def _own_masks(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of each latent, numbers in [0, 1): one a mask [B, M], and as many as codes [B, M, T]."""
        numbers = self.num_masks * (1 + self.spec.num_dims)
        noise = RowNoise(z).uniform(numbers).T.reshape(len(z), self.num_masks, -1)
        return noise[..., 0], noise[..., 1:]

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        """The negative bound from one mask a latent, drawn anew in training and its own outside of it."""
        if context is None and self.num_classes:
            return -self._log_prob(z, None)
        labels = self._all(len(z), self.no_class) if context is None else self._dropped(context)
        if self.training:
            places = torch.arange(len(z), device=z.device) + torch.rand(1, device=z.device)
            return self._cost(z, labels, places / len(z) % 1, torch.rand(z.shape, device=z.device))
        level, orders = self._own_masks(z)
        return self._cost(z, labels, level[:, 0], orders[:, 0])

    def _cost(self, z: Tensor, labels: Tensor, level: Tensor, order: Tensor) -> Tensor:
        """One estimate of the negative bound, [B] nats: of floor(T level) + 1 masks, which come first in `order`.

        Args:
            z: latents [B, T].
            labels: [B], which may be `no_class`.
            level: [B] uniform in [0, 1).
            order: [B, T] numbers that are sorted.
        """
        num = (z.shape[1] * level).long() + 1  # [B]
        masked = order.argsort(1).argsort(1) < num[:, None]  # [B, T]
        log_prob = self._log_conditionals(z, masked, labels)
        return -(log_prob * masked).sum(1) * z.shape[1] / num

    def _log_conditionals(self, z: Tensor, masked: Tensor, labels: Tensor) -> Tensor:
        """log p(z_i | what is not masked) of every masked code i, and a number for all others, [B, T] nats."""
        tokens = self.tokens.split(z)
        outputs = self._outputs(tokens, masked, labels)
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            return self.tokens.log_prob(outputs.float(), tokens)

    def _outputs(self, tokens: Tensor, masked: Tensor, labels: Tensor) -> Tensor:
        """Codes [B, T], of which those that are `masked` [B, T] are not looked at -> [B, T, W]."""
        known = self.tokens.embed(tokens, slice(0, tokens.shape[1]))
        inputs = torch.where(masked[..., None], self.mask, known)
        return self.net(inputs + self.label(labels)[:, None])

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        rows = max(1, SAMPLE_ELEMENTS // (self.spec.num_dims * max(code_sizes(self.spec))))
        return torch.cat([self._generate(block, how) for block in labels.split(rows)])

    def _generate(self, labels: Tensor, how: Sampling) -> Tensor:
        """One block of samples."""
        n, num_tokens = len(labels), self.spec.num_dims
        tokens = torch.zeros(n, num_tokens, dtype=torch.int64, device=labels.device)
        masked = torch.ones_like(tokens, dtype=torch.bool)
        left = num_tokens
        for step in range(1, 1 + (self.num_steps or num_tokens)):
            share = step / (self.num_steps or num_tokens)
            if self.num_steps is None:
                left -= 1
                asked = first_of(torch.rand(n, num_tokens, device=labels.device), masked, 1)
            else:
                left = min(left - 1, math.floor(num_tokens * math.cos(0.5 * math.pi * share)))
                asked = masked
            drawn, log_prob = self._draw(tokens, masked, asked, labels, how)
            tokens = torch.where(asked, drawn, tokens)
            if self.num_steps is None:
                masked = masked & ~asked
            else:
                noise = -torch.empty_like(log_prob).exponential_().log()  # Gumbel
                confidence = log_prob + self.choice_temperature * how.temperature * (1 - share) * noise
                masked = first_of(confidence, masked, left)
        return self.tokens.join(tokens)

    def _draw(
        self, tokens: Tensor, masked: Tensor, asked: Tensor, labels: Tensor, how: Sampling
    ) -> tuple[Tensor, Tensor]:
        """Codes [n, T] for the places `asked` [n, T], and how likely they were; of other places, zeros."""
        if how.guidance:  # beside them their unconditional twins
            labels = torch.cat([labels, torch.full_like(labels, self.no_class)])
            outputs = self._outputs(tokens.repeat(2, 1), masked.repeat(2, 1), labels)
        else:
            outputs = self._outputs(tokens, masked, labels)
        at = asked.nonzero()[:, 1]
        without = outputs[len(tokens) :][asked] if how.guidance else None
        codes, log_probs = self.tokens.draw_at(at, outputs[: len(tokens)][asked], without, how)
        drawn, log_prob = torch.zeros_like(tokens), outputs.new_zeros(tokens.shape, dtype=torch.float32)
        drawn[asked], log_prob[asked] = codes, log_probs
        return drawn, log_prob


def first_of(score: Tensor, among: Tensor, num: int) -> Tensor:
    """Marks [n, T] of the `num` places of each row that have the lowest `score` [n, T], of those marked in `among`."""
    order = score.masked_fill(~among, math.inf).argsort(1)
    return torch.zeros_like(among).scatter_(1, order[:, :num], True)
