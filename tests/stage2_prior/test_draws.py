"""Draws at the ends of what the knobs allow, and labels in whatever integer type they come."""

import math

import pytest
import torch

from stage1_vae.latents import LatentSpec, Support
from stage1_vae.machine import flushed_denormals
from stage2_prior.fitting import PriorError
from stage2_prior.nets.tokens import CodeTokens, RealTokens
from stage2_prior.prior import Prior
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.pixelcnn import PixelCNN
from stage2_prior.priors.transformer import Transformer
from stage2_prior.sampling import MOST, Sampling, draw_categorical

CODES = LatentSpec((4,), Support.CODES, ((2, 2),), (5,), num_classes=3)
VECTOR = LatentSpec((4,), num_classes=3)
SIZES = {"width": 16, "depth": 1, "num_heads": 2}
PRIORS = {
    "transformer": lambda: Transformer(CODES, conditional=True, **SIZES),  # type: ignore[arg-type]
    "transformer of vectors": lambda: Transformer(VECTOR, conditional=True, **SIZES),  # type: ignore[arg-type]
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
    for temperature in (1e-3, 1e-37, 1e-38, 1e-44):
        how = Sampling(temperature=temperature)
        assert draw_categorical(logits, how).tolist() == [1, 0]
        with flushed_denormals():  # as stages draw
            assert draw_categorical(logits, how).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["transformer", "transformer of vectors"])
def test_the_largest_numbers_that_knobs_may_be_still_draw(name: str) -> None:
    prior, labels = made(name), torch.tensor([0, 1])
    for how in (Sampling(temperature=MOST), Sampling(guidance=MOST), Sampling(temperature=MOST, guidance=MOST)):
        assert torch.isfinite(prior.sample(2, labels, how).float()).all()
    for knob in ("temperature", "guidance"):
        with pytest.raises(ValueError, match=f"sample.{knob}=1e.30: give 0 or more, at most 1000"):
            Sampling(**{knob: 1e30})  # type: ignore[arg-type]


def test_guided_gaussians_follow_the_tilted_density() -> None:
    """N(1, 1) away from N(0, 1): N(1, 1)^(1 + w) / N(0, 1)^w is N(1 + w, 1)."""
    tokens = RealTokens(LatentSpec((1,)), width=1, num_components=1)
    with torch.no_grad():
        tokens.head.weight.copy_(torch.tensor([[0.0], [1.0], [0.0]]))  # the mean is the output
        tokens.head.bias.copy_(torch.tensor([0.0, 0.0, math.log(2)]))  # under its ceiling, a width of 1
        torch.manual_seed(0)
        z = tokens.draw(torch.ones(4000, 1), torch.zeros(4000, 1), 0, Sampling(guidance=1.0))
    assert z.mean().item() == pytest.approx(2.0, abs=0.15) and z.std().item() == pytest.approx(1.0, abs=0.1)


def test_a_token_of_two_numbers_integrates_to_one() -> None:
    prior = Transformer(LatentSpec((2, 1, 1)), num_components=2, **SIZES).eval()  # type: ignore[arg-type]
    axis = torch.linspace(-12, 12, 300)
    with torch.no_grad():
        mass = prior.log_prob(torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)).double().exp().sum()
    assert mass.item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


def test_the_same_code_of_two_maps_is_two_tokens() -> None:
    tokens = CodeTokens(LatentSpec((2,), Support.CODES, ((1, 1), (1, 1)), (3, 5)), width=4)
    first, second = tokens.embed(torch.tensor([[2, 2]]), slice(0, 2))[0]
    assert torch.equal(first, tokens.embedding.weight[2]) and torch.equal(second, tokens.embedding.weight[3 + 2])


def test_a_share_of_the_mass_ends_with_the_code_that_reaches_it() -> None:
    four = torch.zeros(2000, 4)  # a quarter each, exactly
    torch.manual_seed(0)
    for share, kept in ((0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4)):
        assert len(draw_categorical(four, Sampling(top_p=share)).unique()) == kept


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_outermost_random_numbers_draw_codes_that_are_there(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the first code where it has no mass, nor one behind the last where rounded shares fall short of one."""
    torch.manual_seed(0)
    logits = torch.randn(500, 700)
    logits[:, [0, -1]] = -math.inf
    assert (logits.softmax(-1).cumsum(-1)[:, -1] < 1 - 2**-24).any()
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, uniform))
    codes = draw_categorical(logits, Sampling())
    assert ((codes > 0) & (codes < 699)).all()
