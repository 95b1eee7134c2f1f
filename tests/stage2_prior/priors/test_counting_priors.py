"""Unigram and bigram: known chains are recovered, smoothing is chosen by held-out latents, and neither can say zero."""

import math

import numpy as np
import pytest
import torch
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.counting import STRENGTHS, pair_counts, place_counts
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Prior
from stage2_prior.priors.bigram import Bigram
from stage2_prior.priors.unigram import Unigram

CHAIN = LatentSpec((12,), Support.CODES, ((3, 4),), (5,))
START = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
NEXT = np.array([np.roll([0.6, 0.2, 0.1, 0.06, 0.04], i) for i in range(5)])
"""Row b: probabilities of what follows b. Doubly stochastic."""


def chain(num: int, seed: int) -> LatentDataset:
    """Sequences of a Markov chain."""
    rng = np.random.default_rng(seed)
    z = np.zeros((num, 12), np.uint8)
    for t in range(12):
        edges = np.cumsum(np.broadcast_to(START, (num, 5)) if t == 0 else NEXT[z[:, t - 1]], axis=1)
        z[:, t] = (rng.random((num, 1)) > edges[:, :-1]).sum(1)
    return LatentDataset(CHAIN, "codes", {"codes": z})


def entropies() -> tuple[float, float]:
    """Nats of the chain, and of its places taken by themselves."""
    of = [START @ np.linalg.matrix_power(NEXT, t) for t in range(12)]
    alone = sum(-(p * np.log(p)).sum() for p in of)
    together = -(START * np.log(START)).sum() + sum(p @ -(NEXT * np.log(NEXT)).sum(1) for p in of[:-1])
    return together, alone


def test_a_markov_chain_costs_its_entropy_and_its_places_alone_cost_theirs() -> None:
    together, alone = entropies()
    train, val, test = chain(20_000, 0), chain(2000, 1), chain(20_000, 2)
    bigram, unigram = Bigram(CHAIN), Unigram(CHAIN)
    costs = []
    for prior in (bigram, unigram):
        report = prior.fit(train, val, RUN)
        assert report.train_nll_nats is not None and report.val_nll_nats is not None
        costs.append(-prior.log_prob(test.draw(torch.arange(len(test)))).double().mean().item())
    assert costs[0] == pytest.approx(together, abs=0.04) and costs[1] == pytest.approx(alone, abs=0.04)
    assert together < alone - 3
    torch.manual_seed(0)
    z = bigram.sample(20_000)
    followed = torch.zeros(5, 5).index_put_((z[:, 4], z[:, 5]), torch.ones(20_000), accumulate=True)
    torch.testing.assert_close(
        followed / followed.sum(1, keepdim=True), torch.from_numpy(NEXT).float(), atol=0.03, rtol=0
    )


def test_few_counts_of_pairs_fall_back_on_single_codes() -> None:
    """A codebook whose table of pairs has 90,000 cells, and 700 pairs to count: worth hardly more than the unigram."""
    spec = LatentSpec((8,), Support.CODES, ((2, 4),), (300,))
    rng = np.random.default_rng(0)
    train, val, test = (
        LatentDataset(spec, "codes", {"codes": (300 * rng.random((num, 8)) ** 3).astype(np.uint16)})
        for num in (100, 200, 2000)
    )
    unigram, bigram = Unigram(spec), Bigram(spec)
    unigram.fit(train, val, RUN)
    bigram.fit(train, val, RUN)
    z = test.draw(torch.arange(2000))
    uniform = 8 * math.log(300)
    alone, pairs = (-prior.log_prob(z).mean().item() for prior in (unigram, bigram))
    assert alone < uniform - 1 and pairs < alone + 0.2
    assert prior_is_finite(unigram) and prior_is_finite(bigram)


def prior_is_finite(prior: Prior) -> bool:
    """On codes that were never seen, one by one and in pairs."""
    return bool(prior.log_prob(torch.randint(300, (500, 8))).isfinite().all())


def test_smoothing_is_what_held_out_latents_like_best() -> None:
    """Against a search by hand over the same strengths."""
    train, val = chain(60, 0), chain(500, 1)
    prior = Unigram(CHAIN)
    report = prior.fit(train, val, RUN)
    counts, held_out = place_counts(train), place_counts(val)
    costs = [-(held_out * ((counts + a) / (60 + 5 * a)).log()).sum().item() / 500 for a in STRENGTHS]
    assert report.val_nll_nats == pytest.approx(min(costs), abs=1e-4)
    assert f"{STRENGTHS[int(np.argmin(costs))]:g}" in report.notes[0]
    assert min(costs) < costs[0] - 0.01 and min(costs) < costs[-1] - 0.01


def test_counts_of_bits_are_expectations_and_not_draws() -> None:
    spec = LatentSpec((3,), Support.BITS)
    logits = np.float32(np.random.default_rng(0).normal(size=(50, 3)))
    latents = LatentDataset(spec, "bits", {"logits": logits})
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    torch.testing.assert_close(place_counts(latents)[:, 1], torch.from_numpy(p.sum(0)), rtol=1e-5, atol=1e-5)
    (pairs,) = pair_counts(latents)
    assert pairs[2, 1, 0].item() == pytest.approx((p[:, 1] * (1 - p[:, 2])).sum(), rel=1e-5)
    assert pairs[0].sum() == 0, "the first bit has none before it"


def test_the_first_code_of_a_map_does_not_depend_on_the_map_before() -> None:
    spec = LatentSpec((3,), Support.CODES, ((1, 1), (1, 2)), (4, 6))
    rng = np.random.default_rng(0)
    top = rng.integers(4, size=500)
    z = np.stack([top, top + 1, rng.integers(6, size=500)], 1).astype(np.uint8)  # the second follows from the first
    latents = LatentDataset(spec, "codes", {"codes": z})
    prior = Bigram(spec)
    prior.fit(latents, latents, RUN)
    cost = [prior.log_prob(torch.tensor([[a, 2, 3]])).item() for a in range(4)]
    alone = [math.log((top == a).mean()) for a in range(4)]
    assert np.allclose(np.subtract(cost, alone), cost[0] - alone[0], atol=0.02)


@pytest.mark.parametrize("kind", [Unigram, Bigram])
def test_codes_beyond_the_codebook_of_a_map_have_no_mass(kind: type[Unigram] | type[Bigram]) -> None:
    spec = LatentSpec((3,), Support.CODES, ((1, 1), (1, 2)), (4, 6))
    z = np.random.default_rng(0).integers(4, size=(20, 3)).astype(np.uint8)
    latents = LatentDataset(spec, "codes", {"codes": z})
    prior = kind(spec)
    for _ in range(2):  # before and after the fit
        assert prior.log_probs[0, 4:].isneginf().all() and prior.log_probs[1:].isfinite().all()
        every = torch.cartesian_prod(torch.arange(4), torch.arange(6), torch.arange(6))
        assert prior.log_prob(every).double().exp().sum().item() == pytest.approx(1, abs=1e-5)
        prior.fit(latents, latents, RUN)


def test_codebooks_whose_pairs_would_fill_memory_are_refused() -> None:
    spec = LatentSpec((4,), Support.CODES, ((2, 2),), (8192,))
    assert "8192 are too many (at most 4096)" in str(Bigram.check(spec)) and Unigram.check(spec) is None


def test_bits_that_are_not_finite_are_refused() -> None:
    logits = np.zeros((10, 3), np.float32)
    logits[4, 1] = np.nan
    latents = LatentDataset(LatentSpec((3,), Support.BITS), "bits", {"logits": logits})
    for prior in (Unigram(latents.spec), Bigram(latents.spec)):
        with pytest.raises(PriorError, match=r"logits of the training latents .*first: 4"):
            prior.fit(latents, latents, RUN)
