"""Labels as context: a conditional prior also knows latents of no class, under a label of its own.

It drops the label in a share of its training, and so learns p(z) beside p(z|y); the first is its density where no label
is given, and what guidance leads away from (Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022, section 3.2).
"""

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec
from stage2_prior.prior import PriorError


def num_classes(spec: LatentSpec, conditional: bool) -> int:
    """Classes of a prior of latents of `spec`; 0 unless it is `conditional`.

    Raises:
        PriorError: no labels travel with the latents.
    """
    if conditional and not spec.num_classes:
        raise PriorError("prior.conditional=true needs labels and these images have none; set it to false")
    return spec.num_classes if conditional else 0


def check_label_dropout(share: float, conditional: bool) -> None:
    """Raises:
    PriorError: `share` is none, or is 0 where p(z) is to be learned beside p(z|y).
    """
    if not 0 <= share < 1:
        raise PriorError(f"prior.label_dropout={share}: give a share from 0 to below 1")
    if conditional and share == 0:
        raise PriorError("prior.label_dropout=0 leaves p(z) unlearned, which draws without a label need; give 0.1")


def with_nobody(labels: Tensor | None, n: int, classes: int, device: torch.device) -> Tensor:
    """The labels, or that of no class, `classes`, for each of `n` latents: int64 [n] on `device`."""
    return torch.full((n,), classes, device=device) if labels is None else labels.to(device, torch.int64)


def dropped(labels: Tensor | None, classes: int, share: float) -> Tensor | None:
    """The labels with a random `share` replaced by that of no class."""
    if labels is None:
        return None
    return torch.where(torch.rand(len(labels), device=labels.device) < share, classes, labels)
