"""Images whose density is known: the true figure beside the estimated ones.

A source that draws its images from a density that it can evaluate says so in `ImageData.density`. Its mean -log p(x)
on test images is the entropy of the data, but for chance: what no model can beat, and what every bound must stay above.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.bounds import Bounds
from expost.evaluation.oracle import Compared
from expost.parts.assembly import Parts
from stage1_vae.data.images import ImageSet
from stage1_vae.vae import VAE


@dataclass(frozen=True)
class Truth:
    """The mean true -log p(x) of the bounded test images, nats an image, and a note that compares it."""

    nll_nats: float
    note: str


def carries_unchanged(vae: VAE) -> bool:
    """Whether z is x: nothing between the images and stage 2 has a parameter."""
    return next(vae.parameters(), None) is None


def true_nll_nats(parts: Parts, images: ImageSet) -> Tensor | None:
    """-log p(x) of `images` under the density that they were drawn from, float64 [N]; None where nobody knows."""
    if parts.data.density is None or parts.preprocess.is_random:
        return None
    index = torch.arange(len(images))
    return torch.cat([-parts.data.density.log_prob(images.batch(rows)).cpu() for rows in index.split(4096)])


def compare_with_truth(parts: Parts, images: ImageSet, bounded: Mapping[str, Bounds], name: str) -> Truth | None:
    """The true -log p(x), and how far from it the learned prior's figure is; None where it is not known.

    Args:
        parts: data and VAE.
        images: those that were bounded, in their order.
        bounded: of `measure_bounds`.
        name: of the learned prior.
    """
    truth = true_nll_nats(parts, images)
    if truth is None:
        return None
    mean = truth.mean().item()
    note = f"the true density: -log p(x) is {mean:.3f} nats on {len(truth):,} test images"
    learned = bounded["learned"]
    if carries_unchanged(parts.vae):
        what, figure = "-log p(z), z = x,", learned.latent_nll_nats
    else:
        what, figure = "-IWAE bound", learned.iwae_nats if parts.kind.is_density else None
    compared = None if figure is None else Compared.of(name, truth, figure)
    if compared is not None and compared.is_finite and compared.standard_error_nats is not None:
        off = f"{compared.error_nats:+.3f} ± {compared.standard_error_nats:.3f} nats from it"
        note += f"; the {what} of {name} is {off} (std. error over images)"
    return Truth(mean, note)
