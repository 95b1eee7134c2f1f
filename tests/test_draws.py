"""Draws at the ends of what the knobs allow, and labels in whatever integer type they come."""

import pytest
import torch

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.prior import Prior, PriorError
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.pixelcnn import PixelCNN
from stage2_prior.priors.transformer import Transformer
from stage2_prior.sampling import MOST, Sampling, draw_categorical

CODES = LatentSpec((4,), Support.CODES, ((2, 2),), (5,), num_classes=3)
VECTOR = LatentSpec((4,), num_classes=3)
SIZES = {"width": 16, "depth": 1, "num_heads": 2}
PRIORS = {
    "transformer": lambda: Transformer(CODES, conditional=True, **SIZES),
    "transformer of vectors": lambda: Transformer(VECTOR, conditional=True, **SIZES),
    "pixelcnn": lambda: PixelCNN(CODES, width=8, depth=2, conditional=True),
    "autoregressive": lambda: Autoregressive(VECTOR, hidden=(8,), conditional=True),
}


def made(name: str) -> Prior:
    torch.manual_seed(0)
    return PRIORS[name]().eval()


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_the_same_labels(name: str, dtype: torch.dtype) -> None:
    """Data sets store them in bytes."""
    prior, labels = made(name), torch.tensor([0, 2, 1, 2])
    torch.manual_seed(1)
    expected = prior.sample(4, labels)
    torch.manual_seed(1)
    assert torch.equal(prior.sample(4, labels.to(dtype)), expected)
    assert torch.equal(prior.log_prob(expected, labels.to(dtype)), prior.log_prob(expected, labels))
    with pytest.raises(PriorError, match="label 3 is out of range"):
        prior.sample(1, torch.tensor([3], dtype=dtype))


def test_a_temperature_near_nothing_draws_the_likeliest_code() -> None:
    """However large logits become where they are divided by it."""
    logits = torch.tensor([[1.0, 3.0, 2.0], [-90.0, -100.0, -95.0]])
    for temperature in (1e-3, 1e-38, 1e-44):
        assert draw_categorical(logits, Sampling(temperature=temperature)).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["transformer", "transformer of vectors"])
def test_the_largest_numbers_that_knobs_may_be_still_draw(name: str) -> None:
    prior, labels = made(name), torch.tensor([0, 1])
    for how in (Sampling(temperature=MOST), Sampling(guidance=MOST), Sampling(temperature=MOST, guidance=MOST)):
        assert torch.isfinite(prior.sample(2, labels, how).float()).all()
    for knob in ("temperature", "guidance"):
        with pytest.raises(ValueError, match=f"sample.{knob}=1e.30: give 0 or more, at most 1000"):
            Sampling(**{knob: 1e30})
