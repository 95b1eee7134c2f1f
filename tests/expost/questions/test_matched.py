"""Beside an exact match: no excess of KL(q(z) || N(0, I)) where q(z) is N(0, I), and a clear one where it is not."""

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from expost.config.build import build
from expost.config.defaults import read_conf
from expost.evaluation.sections import Estimate
from expost.questions.inquiry import Outcome, Outcomes
from expost.questions.matched import (
    NUM_MATCHES,
    Excess,
    beyond_together,
    estimated,
    exact_match,
    excess,
    has_room,
    hidden,
    matching_widths,
    mean_rates,
    num_above,
    of_matches,
)
from stage1_vae.latents import LatentDataset

NUM, CPU = 359, torch.device("cpu")
Make = Callable[[Tensor], LatentDataset]


def normal(std: Tensor) -> LatentDataset:
    """Posteriors as a VAE's, with widths `std` [N, D] of their own, whose aggregate is N(0, I)."""
    return LatentDataset.of(torch.randn_like(std) * (1 - std.square()).sqrt(), std=std)


def shifted(std: Tensor) -> LatentDataset:
    """The same, of N(1, I)."""
    return LatentDataset.of(torch.randn_like(std) * (1 - std.square()).sqrt() + 1, std=std)


def bimodal(std: Tensor) -> LatentDataset:
    """The same mean and variance, in two heaps along each dimension."""
    side = torch.sign(torch.randn_like(std))
    return LatentDataset.of(0.95 * side + torch.randn_like(std) * (1 - 0.95**2 - std.square()).sqrt(), std=std)


def run(latents: LatentDataset, seed: int) -> Outcome:
    """The figures of one run; no VAE is trained for them."""
    rates = mean_rates(latents)
    matches = of_matches(matching_widths(latents, rates), NUM, CPU)
    kl, matched = estimated(latents, NUM, CPU), statistics.fmean(matches)
    return Outcome(
        "a",
        seed,
        {
            "rate": rates.sum().item(),
            "marginal_kl": kl,
            "matched_kl": matched,
            "beyond": kl - matched,
            "matched_sd": statistics.stdev(matches),
            "num_images": NUM,
        },
    )


def found(make: Make, dims: int, std: float, scatter: float = 0.06) -> tuple[Outcomes, Excess]:
    """Of three seeds, posteriors made by `make` with widths around `std`, whose logarithms have the deviation
    `scatter`."""
    torch.manual_seed(3)
    widths = [(std * torch.exp(scatter * torch.randn(NUM, dims))).clamp_max(1) for _ in range(3)]
    outcomes = Outcomes([run(make(width), seed) for seed, width in enumerate(widths)])
    return outcomes, excess(outcomes, "a")


def test_an_exact_match_costs_its_rates_and_is_a_standard_normal() -> None:
    torch.manual_seed(0)
    rates = torch.tensor([0.0, 0.5, 2.0, 4.0])
    match = exact_match(torch.exp(-rates).expand(50_000, 4))
    assert torch.allclose(mean_rates(match).float(), rates, atol=0.02)
    z = match.draw(torch.arange(len(match)))
    assert z.mean(0).abs().max() < 0.02 and torch.allclose(z.T.cov(), torch.eye(4), atol=0.03)
    assert abs(z.pow(4).mean(0) - 3).max() < 0.2, "tails of a normal"


@pytest.mark.parametrize(
    ("dims", "std", "scatter"), [(2, 0.1, 0.06), (8, 0.5, 0.06), (16, 0.32, 0.06), (2, 0.1, 1.0), (3, 0.2, 0.6)]
)
def test_a_normal_aggregate_has_no_excess_at_any_rate_and_widths(dims: int, std: float, scatter: float) -> None:
    outcomes, over = found(normal, dims, std, scatter)
    estimates = outcomes.values("a", "marginal_kl")
    assert min(estimates) > 0.2, "though the estimate is no zero"
    assert over.is_beyond is False and over.amount.standard_error is not None
    assert abs(over.amount.value) < 2.5 * over.amount.standard_error < 0.75


@pytest.mark.parametrize(
    ("make", "dims", "std"), [(shifted, 2, 0.1), (shifted, 8, 0.6), (bimodal, 2, 0.1), (bimodal, 4, 0.25)]
)
def test_another_aggregate_has_a_clear_excess(make: Make, dims: int, std: float) -> None:
    _, over = found(make, dims, std)
    assert over.is_beyond is True and over.amount.value > 0.5


def test_far_above_log_n_the_estimate_is_the_rate_without_log_n_and_says_so() -> None:
    outcomes, _ = found(normal, 16, 0.32)
    rate, matched = (outcomes.estimate("a", name).value for name in ("rate", "matched_kl"))
    assert rate == pytest.approx(18.2, abs=0.3) and matched == pytest.approx(rate - math.log(NUM), abs=0.1)
    assert not has_room(outcomes, "a")
    (sentence,) = hidden(outcomes, ["a"])
    _, unseen = found(shifted, 16, 0.32)
    assert unseen.is_beyond is False, "eight nats of a mismatch, and none of them can be seen"
    assert "log 359 = 5.88" in sentence and f"up to {matched:.2f} nats in a" in sentence
    roomy, _ = found(normal, 2, 0.2)
    assert has_room(roomy, "a") and hidden(roomy, ["a"]) == []


def invented(beyond: list[float], scatter: float, **others: float) -> list[dict[str, float]]:
    figures = {"rate": 4.0, "num_images": float(NUM), "matched_kl": 0.3, "matched_sd": scatter, **others}
    return [{**figures, "beyond": nats, "marginal_kl": 0.3 + nats} for nats in beyond]


def test_noise_is_that_of_seeds_and_of_images() -> None:
    runs = invented([0.19, 0.20, 0.21], 0.3)
    outcomes = Outcomes([Outcome("a", seed, figures) for seed, figures in enumerate(runs)])
    over = excess(outcomes, "a")
    assert over.amount.standard_error == pytest.approx(math.hypot(0.01 / 3**0.5, 0.3))
    assert over.is_beyond is False, "seeds agree, since all of them see the same images"
    still = Outcomes([Outcome("a", seed, {**figures, "matched_sd": 0.01}) for seed, figures in enumerate(runs)])
    assert excess(still, "a").is_beyond is True
    assert excess(Outcomes(still.all[:1]), "a").is_beyond is None
    both = Outcomes([*outcomes.all, *(Outcome("b", run.seed, run.figures) for run in outcomes.all)])
    between = excess(both, "b", "a")
    assert between.amount.value == 0 and between.amount.standard_error == pytest.approx(0.3 * 2**0.5)
    assert NUM_MATCHES >= 4, "or there is no scatter to speak of"


def test_matching_widths_are_those_of_each_image_at_the_rate() -> None:
    torch.manual_seed(0)
    std = (0.2 * torch.exp(0.6 * torch.randn(NUM, 3))).clamp_max(1)
    latents = normal(std)
    rates = mean_rates(latents)
    matching = matching_widths(latents, rates)
    assert matching.shape == (NUM, 3) and matching.max() <= 1
    assert torch.allclose(-matching.log().mean(0), rates, atol=0.02)
    assert torch.corrcoef(torch.stack([matching[:, 0].log(), std[:, 0].double().log()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("beyond", "accuracy", "said"),
    [
        (0.3, 60.0, "No: q(z) is told from N(0, I) in 2 dimensions by nats and a classifier, in 16 dimensions by nats"),
        (0.0, 60.0, "No: q(z) is told from N(0, I) in 2 dimensions by a classifier, in 16 dimensions by a classifier."),
        (0.0, 50.0, "Not beyond what 359 images can show."),
        (-0.3, 50.0, "Not beyond what 359 images can show."),
    ],
)
def test_the_words_follow_from_excess_and_classifier(beyond: float, accuracy: float, said: str) -> None:
    inquiry = build("question", read_conf("experiment/questions/quilt.yaml")["question"])
    noise = np.array([-0.01, 0.0, 0.01])
    figures = invented(list(beyond + noise), 0.02, baseline_distance=4.0, own_distance=2.0)
    outcomes = Outcomes(
        [
            Outcome(
                variant.name, seed, {**figures[seed], "accuracy": accuracy + 10 * noise[seed], "accuracy_error": 0.1}
            )
            for variant in inquiry.variants()
            for seed in range(3)
        ]
    )
    assert inquiry.conclude(outcomes)[0].startswith(said)


def test_variants_are_ranked_only_at_rates_that_the_images_can_judge() -> None:
    inquiry = build("question", {**read_conf("experiment/questions/size.yaml")["question"], "depths": [1, 2]})
    over = {"1 hidden, 2 dimensions": 0.1, "2 hidden, 2 dimensions": 0.4}
    outcomes = Outcomes(
        [
            Outcome(variant.name, seed, figures)
            for variant in inquiry.variants()
            for seed, figures in enumerate(
                invented(
                    [over.get(variant.name, 0.0) + noise for noise in (-0.01, 0.0, 0.01)],
                    0.02,
                    rate=4.0 if variant.name in over else 9.0,
                    active=2.0,
                )
            )
        ]
    )
    words = " ".join(inquiry.conclude(outcomes))
    assert (
        "2 of 6 are beyond an exact match by more than noise, tested together at 5%. Of the 2 at rates below" in words
    )
    assert "log 359, 1 hidden, 2 dimensions has the smallest" in words
    assert "2 hidden, 2 dimensions the largest, 0.40 ± 0.02." in words, words
    assert "0.30 nats in 1 hidden, 8 dimensions;" in words and "0.30 nats in 1 hidden, 2" not in words


def test_of_several_that_are_told_together_noise_makes_one_seem_more_in_a_twentieth_of_cases() -> None:
    chance = torch.rand(2000, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [[Excess(Estimate(1.0, 0.5), value) for value in row] for row in chance.tolist()]
    assert 0.035 < statistics.fmean(num_above(row) > 0 for row in rows) < 0.065
    assert statistics.fmean(any(over.is_beyond for over in row) for row in rows) > 0.3, "one by one"
    clear, below = Excess(Estimate(1.0, 0.1), 1e-6), Excess(Estimate(-1.0, 0.1), 1e-6)
    assert num_above([clear, below, *rows[0], Excess(Estimate(1.0, None), None)]) == 1
    assert beyond_together([clear, Excess(Estimate(1.0, None), None), rows[0][0]])[:2] == [True, None]
    nearly = Excess(Estimate(1.0, 0.4), 0.012)
    assert [nearly.is_beyond_of(num) for num in (1, 4, 5)] == [True, True, False]
    assert num_above([nearly] * 4) == 4 and num_above([nearly] * 5) == 0
