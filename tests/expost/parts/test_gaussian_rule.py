"""A prior that one Gaussian does better than says so, and no other does."""

from typing import Any

import numpy as np
import pytest
import torch

from expost import LatentDataset, fit_prior, judge
from expost.parts.gaussian_rule import loses, remedy_of_losing
from stage1_vae.latents import LatentSpec
from stage2_prior.fitting import FitReport
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.kde import Kernels

ALONE = ["whiten", "johnson"]
"""Without a Gaussian behind."""
SHORT = {"max_epochs": 1, "max_steps": 2, "precision": None}
CENTRES = np.random.default_rng(7).normal(size=(10, 6)) * 2


def normal(num: int, seed: int, shape: tuple[int, ...] = (6,)) -> LatentDataset:
    return LatentDataset.of(torch.from_numpy(np.random.default_rng(seed).normal(size=(num, *shape))).float())


def labelled(num: int, num_classes: int) -> LatentDataset:
    return LatentDataset.of(normal(num, num).draw(torch.arange(num)), labels=torch.arange(num) % num_classes)


def clusters(num: int, seed: int) -> LatentDataset:
    rng = np.random.default_rng(seed)
    return LatentDataset.of(
        torch.from_numpy(CENTRES[rng.integers(10, size=num)] + 0.2 * rng.normal(size=(num, 6))).float()
    )


def fitted(train: LatentDataset, val: LatentDataset, name: str, **settings: Any) -> FitReport:
    return fit_prior(train, name, val=val, device="cpu", **settings)[1]


LOSING: dict[str, tuple[dict[str, Any], str]] = {
    "kde": ({"bandwidth": 0.1, "wrap": ALONE}, "it blurs what it has seen"),
    "mixture": ({"pseudo_counts": 0}, "set prior.pseudo_counts=held_out"),
    "second_vae": ({"fit": SHORT, "wrap": ALONE}, "raise prior.fit.max_epochs"),
}


@pytest.mark.parametrize("name", LOSING)
def test_who_loses_is_told_and_what_to_do(name: str) -> None:
    settings, remedy = LOSING[name]
    report = fitted(normal(600, 0), normal(400, 1), name, **settings)
    over = report.over_gaussian
    assert over is not None and over["num"] == 400 and over["gain_nats"] < -2 * over["error_nats"]
    assert report.notes[-1].startswith("it loses to prior=gaussian, by ") and remedy in report.notes[-1]


@pytest.mark.parametrize("name", ["kde", "second_vae"])
def test_what_is_mostly_the_gaussian_behind_it_says_so(name: str) -> None:
    settings, remedy = LOSING[name]
    report = fitted(normal(600, 0), normal(400, 1), name, **{**settings, "wrap": [*ALONE, "defensive"]})
    assert report.over_gaussian is not None and report.over_gaussian["gain_nats"] > -0.01
    assert "% of it is the Gaussian that stands behind it" in report.notes[-1] and remedy in report.notes[-1]


def test_the_figure_is_the_difference_of_held_out_nats() -> None:
    train, val = clusters(1000, 0), clusters(500, 1)
    report, other = fitted(train, val, "mixture", num_components=10), fitted(train, val, "gaussian")
    over = report.over_gaussian
    assert over is not None and report.val_nll_nats is not None and other.val_nll_nats is not None
    assert over["gain_nats"] == pytest.approx(other.val_nll_nats - report.val_nll_nats, abs=1e-4)
    assert over["gain_nats"] > 1 and not any("loses" in note for note in report.notes)


@pytest.mark.parametrize("name", ["mixture", "kde"])
def test_by_default_nothing_is_lost_of_normal_latents(name: str) -> None:
    report = fitted(normal(1000, 0), normal(500, 1), name)
    assert report.over_gaussian is not None and report.over_gaussian["gain_nats"] > -0.03
    assert not any("loses" in note for note in report.notes)


def test_kernels_of_points_are_as_wide_along_correlations_as_these() -> None:
    """A diagonal kernel would lose 3 nats."""
    common, alone = np.random.default_rng(0).normal(size=(1500, 1)), np.random.default_rng(1).normal(size=(1500, 6))
    z = torch.from_numpy(common + 0.1 * alone).float()
    report = fitted(LatentDataset.of(z[:1000]), LatentDataset.of(z[1000:]), "kde")
    assert report.over_gaussian is not None and report.over_gaussian["gain_nats"] > -0.03


@pytest.mark.parametrize("name", ["gaussian", "standard_normal", "isotropic"])
def test_what_is_one_or_is_not_fitted_is_held_against_none(name: str) -> None:
    assert fitted(normal(300, 0), normal(100, 1), name).over_gaussian is None
    if name != "gaussian":
        train, val = (labelled(num, num_classes=3) for num in (300, 90))
        assert fitted(train, val, name, conditional=True).over_gaussian is None


def test_maps_are_held_against_theirs() -> None:
    train, val = normal(300, 0, (2, 4, 4)), normal(100, 1, (2, 4, 4))
    report = fitted(train, val, "kde")
    assert report.over_gaussian is not None and report.over_gaussian["num"] == 100
    codes = LatentDataset.of(codes=torch.randint(0, 4, (300, 5)), num_codes=4)
    assert fitted(codes, codes, "unigram").over_gaussian is None


def test_a_judgement_says_it_with_the_remedy() -> None:
    latents = normal(2000, 0)
    prior, _ = fit_prior(latents, "kde", device="cpu", bandwidth=0.1, wrap=ALONE)
    assert (
        "The prior kde loses to one Gaussian, prior=gaussian, which costs"
        in judge(prior, latents, num_samples=200).verdict
    )


def test_latents_without_probability_are_told_and_not_only_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Kernels.log_prob

    def log_prob(prior: Kernels, z: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """None of what is far out in one direction has any, as kernels of bounded width would have it."""
        return torch.where(z[:, 0] > 2, -torch.inf, right(prior, z, context))

    monkeypatch.setattr(Kernels, "log_prob", log_prob)
    report = fitted(normal(1000, 0), normal(500, 1), "kde", wrap=ALONE)
    assert report.over_gaussian is not None and 0 < (num := 500 - report.over_gaussian["num"]) < 50
    assert any(f"it gives {num} of 500 held-out latents no probability" in note for note in report.notes)


@pytest.mark.parametrize(
    ("node", "begins"),
    [
        ({"fit": {}}, "raise prior.fit.max_epochs, give more"),
        ({"seconds": 30, "members": []}, "raise prior.seconds, give more"),
        ({"members": []}, "give more latents"),
    ],
    ids=["network", "auto", "ensemble"],
)
def test_what_takes_too_few_steps_is_told_the_key_that_it_has(node: dict[str, Any], begins: str) -> None:
    remedy = remedy_of_losing(Autoregressive(LatentSpec((6,))), node)
    assert remedy.startswith(begins) and ("prior=ensemble" in remedy) == ("members" not in node)


@pytest.mark.parametrize("name", ["gaussian", "auto"])
def test_too_few_latents_a_class_lose_to_the_gaussian_of_all(name: str) -> None:
    settings = {"members": ["gaussian", {"prior": "mixture", "num_components": 2}]} if name == "auto" else {}
    report = fitted(labelled(600, 60), labelled(400, 60), name, conditional=True, **settings)
    over = report.over_gaussian
    assert over is not None and over["gain_nats"] < -2 * over["error_nats"]
    assert report.notes[-1].endswith(", give more latents of each class, or set prior.conditional=false")


def test_of_distances_auto_takes_no_rung_that_loses_in_nats() -> None:
    members = ["gaussian", {"prior": "mixture", "num_components": 40, "pseudo_counts": 0}]
    report = fitted(normal(400, 0), normal(400, 1), "auto", members=members, metric="frechet_distance")
    assert [row["rung"] for row in report.ladder if "taken" in row["words"]] == ["gaussian"]


def test_a_loss_by_a_few_latents_is_one_although_its_error_is_as_large() -> None:
    wild = np.random.default_rng(5000)
    train, val = (
        LatentDataset.of(torch.from_numpy(wild.normal(size=(num, 8)) * np.where(wild.random((num, 1)) < 0.01, 1e3, 1)))
        for num in (3000, 500)
    )
    note = fitted(train, val, "kde", wrap=ALONE).notes[-1]
    assert "most of it by a few that it gives next to no probability; it blurs" in note
    assert loses({"gain_nats": -5.0, "error_nats": 5.0, "num": 500})
    assert not loses({"gain_nats": -0.5, "error_nats": 0.5, "num": 500})
    assert not loses({"gain_nats": -5.0, "error_nats": 8.0, "num": 500})
    over = fitted(train, val, "kde").over_gaussian
    assert over is not None and over["gain_nats"] > 20, "what stands behind it explains these"
