"""How latents are drawn: as the density says, or sharpened; and how a code is drawn from its logits.

At temperature 1 without a cut the draws follow the density. A lower temperature, the k likeliest codes (Fan, Lewis &
Dauphin, "Hierarchical Neural Story Generation", 2018), the smallest set of codes that holds a share p of the mass
(Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020) and guidance away from the unconditional model
(Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022, eq. 6) trade variety for typical images; `log_prob` does not
follow them. Of real numbers the temperature scales the noise that a sample begins with, or the widths around it, and
truncation keeps the draws of the highest density (after the truncation trick of Brock, Donahue & Simonyan, "Large Scale
GAN Training", 2019, section 3.1, which cuts the noise and not the density).
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec, Support

MOST = 1000
"""Temperature and guidance: beyond it nothing changes but that numbers overflow."""


@dataclass(frozen=True)
class Sampling:
    """Attributes:
    temperature: divides logits, and scales the widths of Gaussians; 0, and what is denormal: the likeliest value.
    top_k: codes that may be drawn; None: all.
    top_p: share of the mass that may be drawn; 1: all.
    guidance: weight w of (1 + w) log p(z|y) - w log p(z); 0: none.
    truncation: share of draws that is kept, those of the highest density; 1: all.

    Raises:
        ValueError: for a number out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance: float = 0.0
    truncation: float = 1.0

    def __post_init__(self) -> None:
        for knob in ("temperature", "top_p", "guidance", "truncation"):
            value = getattr(self, knob)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"sample.{knob}={value!r}: give a number")
        if 0 < self.temperature < torch.finfo(torch.float32).tiny:
            object.__setattr__(self, "temperature", 0.0)
        for knob in ("temperature", "guidance"):
            if not 0 <= (value := getattr(self, knob)) <= MOST:
                raise ValueError(f"sample.{knob}={value}: give 0 or more, at most {MOST}")
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ValueError(f"sample.top_k={self.top_k!r}: give a whole number, at least 1")
        for knob in ("top_p", "truncation"):
            if not 0 < (share := getattr(self, knob)) <= 1:
                raise ValueError(f"sample.{knob}={share}: give a share above 0, at most 1")

    @property
    def knobs(self) -> list[str]:
        """Names of what is not as in plain sampling."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


PLAIN = Sampling()
CODE_KNOBS = frozenset({"temperature", "top_k", "top_p"})


def code_sizes(spec: LatentSpec) -> tuple[int, ...]:
    """Size of the codebook of each map of codes; bits are codes of two; () for real numbers."""
    return (2,) if spec.support is Support.BITS else spec.num_codes


def draw_categorical(logits: Tensor, how: Sampling) -> Tensor:
    """One code a row of `logits` [B, K]: int64 [B]."""
    if how.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    scaled = (logits - logits.amax(-1, keepdim=True)) / how.temperature  # at most 0, which no temperature overflows
    total = cut(scaled, how).softmax(-1).cumsum(-1)  # [B, K]
    level = torch.rand_like(total[:, :1]) * total[:, -1:]  # below the last, so what has no mass is never drawn
    return torch.searchsorted(total, level, right=True).squeeze(1)


def cut(logits: Tensor, how: Sampling) -> Tensor:
    """`logits` [B, K] with minus infinity where `how` allows no draw; the likeliest code always stays."""
    if how.top_k is not None and how.top_k < logits.shape[-1]:
        kept, index = logits.topk(how.top_k, dim=-1)
        logits = torch.full_like(logits, -math.inf).scatter_(-1, index, kept)
    if how.top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1)
        before = mass.cumsum(-1) - mass  # of all that are likelier
        ordered = ordered.masked_fill(before >= how.top_p, -math.inf)
        logits = torch.empty_like(logits).scatter_(-1, index, ordered)
    return logits


def guide(conditional: Tensor, unconditional: Tensor, how: Sampling) -> Tensor:
    """(1 + w) conditional - w unconditional, for log-densities or logits of the same shape."""
    return conditional + how.guidance * (conditional - unconditional)
