"""How draws of the transformer are led, by knobs and by classes, and what it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from untrained_transformer import GREEDY, SMALL, SPECS, all_sequences, latents, make

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.priors import transformer
from stage2_prior.sampling import PLAIN, Sampling, draw_categorical


def test_dropped_labels_are_no_label() -> None:
    prior = make(SPECS["vector"], conditional=True, dropout=0.0, label_dropout=0.4)
    z, labels = latents(prior.spec, 400), torch.arange(400) % 3
    with torch.no_grad():
        with_label, without = prior.loss(z, labels), -prior._log_prob_given(z, torch.full((400,), prior.no_class))
        prior.train()
        losses = prior.loss(z, labels)
    dropped = torch.isclose(losses, without, atol=1e-4)
    assert torch.allclose(losses[~dropped], with_label[~dropped], atol=1e-4)
    assert 0.3 < dropped.float().mean() < 0.5
    assert (with_label - without).abs().min() > 0


def test_knobs_narrow_the_draws() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(20_000, -1)

    def shares(how: Sampling) -> Tensor:
        torch.manual_seed(3)
        return torch.bincount(draw_categorical(logits, how), minlength=4) / 20_000

    plain = torch.tensor([0.5, 0.3, 0.15, 0.05])
    torch.testing.assert_close(shares(PLAIN), plain, atol=0.015, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_k=2)), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_p=0.8)), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_p=0.81))[2:] > 0, torch.tensor([True, False]))
    torch.testing.assert_close(shares(Sampling(temperature=0.5)), plain**2 / (plain**2).sum(), atol=0.015, rtol=0)
    assert shares(Sampling(temperature=1e-3))[0] == 1 and shares(GREEDY)[0] == 1 and shares(Sampling(top_k=1))[0] == 1
    assert shares(Sampling(top_p=1e-6))[0] == 1, "the likeliest code always stays"
    assert torch.equal(shares(Sampling(top_k=4)), shares(PLAIN))


def test_guidance_leads_towards_the_class() -> None:
    """Draws at weight w follow p(z|y)^(1+w) / p(z without a label)^w where that can be computed: one code."""
    prior = make(LatentSpec((1,), Support.CODES, ((1, 1),), (6,), num_classes=2), conditional=True)
    codes, label = torch.arange(6)[:, None], torch.ones(6, dtype=torch.int64)
    with torch.no_grad():
        without = prior._log_prob_given(codes, torch.full_like(label, prior.no_class))
        wanted = (3 * prior.log_prob(codes, label) - 2 * without).softmax(0)
    torch.manual_seed(4)
    z = prior.sample(20_000, torch.ones(20_000, dtype=torch.int64), Sampling(guidance=2.0))
    torch.testing.assert_close(torch.bincount(z[:, 0], minlength=6) / 20_000, wanted, atol=0.015, rtol=0)


def test_guidance_of_real_numbers_leads_the_same_way() -> None:
    prior = make(LatentSpec((1,), num_classes=2), conditional=True)
    label = torch.ones(4000, dtype=torch.int64)
    axis = torch.linspace(-12, 12, 4000)[:, None]
    with torch.no_grad():
        without = prior._log_prob_given(axis, torch.full_like(label, prior.no_class))
        wanted = (2 * prior.log_prob(axis, label) - without).softmax(0)
        torch.manual_seed(5)
        z = prior.sample(4000, label, Sampling(guidance=1.0))
    assert z.mean().item() == pytest.approx((wanted @ axis).item(), abs=0.15)
    assert z.std().item() == pytest.approx((wanted @ (axis - wanted @ axis).square()).sqrt().item(), rel=0.1)


def test_a_lower_temperature_narrows_gaussians() -> None:
    prior = make(LatentSpec((1,)), num_components=1)
    torch.manual_seed(6)
    whole, half = prior.sample(20_000), prior.sample(20_000, how=Sampling(temperature=0.5))
    assert half.std().item() == pytest.approx(0.5 * whole.std().item(), rel=0.03)
    assert prior.sample(5, how=GREEDY).unique().numel() == 1


REFUSED = [
    ({"conditional": True}, LatentSpec((4,)), "prior.conditional=true needs labels and these images have none"),
    ({"width": 30}, LatentSpec((4,)), "30 cannot be split over 4 heads; give a multiple of 4"),
    ({"depth": 0}, LatentSpec((4,)), "depth=0, num_heads=4: give at least 1 of each"),
    ({"positions": "sines"}, LatentSpec((4,)), "positions=sines is unknown; choose learned or rotary"),
    ({"positions": "rotary", "width": 24}, LatentSpec((4,)), "rotary positions need heads of a multiple of 4"),
    ({"max_tokens": 3}, LatentSpec((4,)), "4 tokens, more than prior.max_tokens=3"),
    ({"dropout": 1.0}, LatentSpec((4,)), "prior.dropout=1.0"),
    ({"label_dropout": -0.1}, LatentSpec((4,)), "prior.label_dropout=-0.1"),
    ({"num_components": 0}, LatentSpec((4,)), "prior.num_components=0"),
]


@pytest.mark.parametrize(("arguments", "spec", "words"), REFUSED)
def test_bad_arguments_are_refused(arguments: dict[str, Any], spec: LatentSpec, words: str) -> None:
    with pytest.raises(PriorError, match=words):
        make(spec, **arguments)


def test_bad_labels_and_knobs_are_refused() -> None:
    prior = make(SPECS["two maps"], conditional=True)
    with pytest.raises(PriorError, match=r"label 3 is out of range; the classes are 0 to 2"):
        prior.sample(2, torch.tensor([0, 3]))
    with pytest.raises(PriorError, match="label -1 is out of range"):
        prior.log_prob(latents(prior.spec, 1), torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"labels are \(1,\); expected \[2\]"):
        prior.sample(2, torch.tensor([0]))
    with pytest.raises(PriorError, match=r"sample.top_k=6 is more than the 5 codes"):
        prior.sample(2, how=Sampling(top_k=6))
    with pytest.raises(PriorError, match=r"give sample.label"):
        prior.sample(2, how=Sampling(guidance=1.0))
    with pytest.raises(PriorError, match=r"cannot follow sample.top_p"):
        make(SPECS["vector"]).sample(2, how=Sampling(top_p=0.5))
    for bad in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": -1.0}):
        with pytest.raises(ValueError, match=f"sample.{next(iter(bad))}="):
            Sampling(**bad)


def test_without_a_label_the_density_is_the_mixture_over_the_classes_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three classes one has no image: it has no part in the density, and is never drawn."""
    prior = make(replace(SMALL["one map"], num_classes=3), conditional=True)
    sequences = all_sequences(prior.spec)
    labels = torch.tensor([0] * 30 + [2] * 10)
    codes = np.zeros((40, prior.spec.num_dims), np.uint8)
    prior.prepare(LatentDataset(prior.spec, "codes", {"codes": codes}, labels.numpy()))
    with torch.no_grad():
        none = prior.log_prob(sequences).double().exp()
        one, other = (prior.log_prob(sequences, torch.full((len(sequences),), y)).double().exp() for y in (0, 2))
    torch.testing.assert_close(none, 0.75 * one + 0.25 * other, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(one, other)
    assert none.sum().item() == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr(prior, "_sample_given", lambda labels, how: labels)
    drawn = prior.sample(400)
    assert set(drawn.tolist()) == {0, 2}
    assert prior.sample(2, torch.tensor([0, 2])).tolist() == [0, 2]
    assert 0.68 < (drawn == 0).float().mean() < 0.82


def test_a_class_that_was_never_seen_is_refused_and_no_held_out_image_of_it_ends_a_fit() -> None:
    prior = make(replace(SMALL["one map"], num_classes=3), conditional=True)
    z, labels = latents(prior.spec, 3), torch.tensor([0, 1, 2])
    codes = np.zeros((40, prior.spec.num_dims), np.uint8)
    prior.prepare(LatentDataset(prior.spec, "codes", {"codes": codes}, np.repeat([0, 2], 20)))
    reason = "no training image is of class 1, so it was not learned; give another label"
    with pytest.raises(PriorError, match=reason):
        prior.sample(3, labels)
    with pytest.raises(PriorError, match=reason):
        prior.log_prob(z, labels)
    assert prior.loss(z, labels).isfinite().all()


@pytest.mark.parametrize("how", [PLAIN, Sampling(guidance=1.0)])
def test_a_block_of_draws_keeps_within_its_cache(how: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guided sequences have a twin each."""
    prior = make(SMALL["one map"], conditional=True)
    limit = 10 * sum(layer.nbytes for layer in prior.net.new_cache(1))
    taken: list[int] = []
    new_cache = prior.net.new_cache

    def noted(rows: int) -> list[torch.Tensor]:
        cache = new_cache(rows)
        taken.append(sum(layer.nbytes for layer in cache))
        return cache

    monkeypatch.setattr(prior.net, "new_cache", noted)
    monkeypatch.setattr(transformer, "CACHE_BYTES", limit)
    assert len(prior.sample(25, torch.ones(25, dtype=torch.int64), how)) == 25
    assert max(taken) == limit
