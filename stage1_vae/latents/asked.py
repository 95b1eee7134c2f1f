"""An encoder asked twice: is what it says of an image a function of that image, and does asking leave it as it is?

Latents are encoded once and a prior is fitted to them, so q(z|x) must be one: the same in every call, the same whoever
else is in the batch, of a model that encoding does not move. Others' quantisers draw their codes in evaluation mode,
balance them over a batch, or move code vectors while they encode; shapes and types look right in each case. It is asked
for on one small batch, before anything is encoded.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from stage1_vae.autoencoder import Autoencoder
from stage1_vae.errors import ExpostError
from stage1_vae.external.weights import copies, first_of, moved
from stage1_vae.vae import stored_params

NUM_ASKED, NUM_ALONE = 16, 4
"""Images of the batch, and those of them that are encoded alone besides."""
MAX_PIXELS = 2**20
"""Numbers of all images of the batch: a large model is asked about fewer of its large images, two at least."""
TOLERANCE = {"32": 1e-3, "bf16": 0.1}
"""By how many standard deviations of all its values one may differ in other company: kernels round differently."""
FEW_CODES = 0.02
"""Share of codes that rounding may change where two code vectors are equally near and an image is in other company."""


class EncodingError(ExpostError, RuntimeError):
    """What our own encoder says of an image is no function of that image: one line with the remedy."""


def num_asked(pixels: int) -> int:
    """How many images of so many numbers a model is asked about."""
    return max(2, min(NUM_ASKED, MAX_PIXELS // pixels))


def spread_over(num_images: int, num: int) -> Tensor:
    """Rows of `num` images of a data set, all over it: its first ones are often of one class. int64 [at most num]."""
    return torch.linspace(0, num_images - 1, min(num, num_images)).long()


def difference(name: str, one: Tensor, other: Tensor, precision: str, few_codes: float = FEW_CODES) -> str | None:
    """How far two answers for the same images differ, in words; None: by no more than rounding makes them.

    Args:
        name: of the parameter of q(z|x) that they are; of whole numbers, which are codes, it is not told.
        one, other: [B, ...] each.
        precision: of the layers, a key of `TOLERANCE`.
        few_codes: share of codes up to which it is rounding; 0 where the same is computed twice.
    """
    if one.shape != other.shape:
        return f"{name}: {tuple(one.shape)} and {tuple(other.shape)}"
    if not one.is_floating_point():
        share = float((one != other).double().mean())
        return f"{percent(share)} of the codes differ" if share > few_codes else None
    apart, spread = float((one - other).abs().max()), float(one.double().std(correction=0))
    if apart > TOLERANCE[precision] * spread + 1e-5 * (1 + float(one.abs().max())):
        return f"{name} differs by {apart:.3g}"
    return None


def percent(share: float) -> str:
    """0.27 -> "27 %"; two digits, none behind the point from 10 % on."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


@torch.no_grad()
def ask_twice(vae: Autoencoder, x: Tensor) -> None:
    """Ask our own `vae` for q(z|x) of images x [B, C, H, W] twice and for some alone; in evaluation mode.

    Raises:
        EncodingError: an answer differs, or a parameter or buffer has moved.
    """
    vae.eval()
    precision = "32" if x.device.type == "cpu" else "bf16"
    before = copies(vae)

    def answer(images: Tensor) -> Mapping[str, Tensor]:
        return stored_params(vae.encode(images).posterior, vae.family, seed=0)

    one = answer(x)
    _compare(one, answer(x), "the same images are encoded differently the second time", precision, few_codes=0.0)
    if vae.family != "draws":  # whose noise is laid out by the batch
        alone = joined([answer(image) for image in x[:NUM_ALONE].split(1)])
        first = {name: value[:NUM_ALONE] for name, value in one.items()}
        _compare(first, alone, "an image alone is encoded differently than in a batch with others", precision)
    if names := moved(vae, before):
        raise EncodingError(f"encoding changes the VAE in evaluation mode too: {first_of(names)}; {LET}")


LET = "let net and vae.bottleneck move and draw where self.training is set, and nowhere else"


def joined(answers: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Answers for one image each as one for all of them."""
    return {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}


def _compare(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], words: str, precision: str, few_codes: float = FEW_CODES
) -> None:
    for name, value in one.items():
        if (apart := difference(name, value, other[name], precision, few_codes)) is not None:
            raise EncodingError(f"{words} ({apart}); {LET}")
