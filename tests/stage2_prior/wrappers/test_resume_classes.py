"""One prior a class that was stopped goes on within the class where it was, and ends in the same bits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopped_run import KilledError, StopsAt, lent, training_states
from training_run import equal

from expost.training.trainer import LoopStates, lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitReport, FitStates
from stage2_prior.prior import Prior
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.per_class import PerClass

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")
SPEC = LatentSpec((3,), num_classes=3)
ITERATIONS = 7


def posteriors(num: int, seed: int) -> LatentDataset:
    draw = np.random.default_rng(seed)
    loc, log_std = draw.normal(size=(2, num, 3)).astype(np.float32)
    labels = draw.integers(0, 3, num)
    return LatentDataset(SPEC, "diagonal_normal", {"loc": loc + labels[:, None], "log_std": log_std - 2}, labels)


TRAIN, VAL = posteriors(600, 0), posteriors(150, 1)
Told = list[tuple[Mapping[str, float], int]]


def fitted(prior: Prior, kept: Any) -> tuple[Prior, FitReport, Told]:
    whole, logged = PerClass(prior), Told()
    run = replace(lent(), log=lambda figures, step: logged.append((figures, step)), states=kept)
    return whole, whole.fit(TRAIN, VAL, run), logged


def mixture() -> Prior:
    return Mixture(SPEC, num_components=10, tol=0, pseudo_counts=0.5, max_iter=ITERATIONS - 1)


@pytest.mark.parametrize("stops", [(3,), (ITERATIONS,), (ITERATIONS + 1,), (2, ITERATIONS + 4, 3)])
def test_wherever_it_stops(stops: tuple[int, ...], tmp_path: Path) -> None:
    """Within the first class, at its last iteration, when it is done, and three times in a row."""
    expected, report, log = fitted(mixture(), FitStates())
    for num in stops:
        with pytest.raises(KilledError):
            fitted(mixture(), StopsAt(LoopStates(training_states(tmp_path)), num))
    said: list[str] = []
    found, again, relogged = fitted(mixture(), LoopStates(training_states(tmp_path, said)))
    assert equal(found.state_dict(), expected.state_dict())
    assert replace(again, seconds=0) == replace(report, seconds=0)
    assert relogged == log and {name for figures, _ in log for name in figures} >= {
        f"train_bound_nats_of_{y}" for y in range(3)
    }
    (words,) = said
    assert words.endswith(f"of {3 * ITERATIONS}")
    if len(stops) == 3:
        assert int(words.split()[3]) > ITERATIONS, "finished classes are not fitted anew"


def test_closed_forms_are_kept_class_by_class(tmp_path: Path) -> None:
    expected, _, _ = fitted(Gaussian(SPEC), FitStates())
    with pytest.raises(KilledError):
        fitted(Gaussian(SPEC), StopsAt(LoopStates(training_states(tmp_path)), 2))
    said: list[str] = []
    found, _, _ = fitted(Gaussian(SPEC), LoopStates(training_states(tmp_path, said)))
    assert said == ["continues after iteration 2 of 3"] and equal(found.state_dict(), expected.state_dict())


def test_the_curve_is_the_mean_of_the_classes(tmp_path: Path) -> None:
    prior, report, log = fitted(mixture(), FitStates())
    assert isinstance(prior, PerClass) and len(report.curve) == ITERATIONS
    ends = [
        max(
            (step, figures[f"train_bound_nats_of_{y}"])
            for figures, step in log
            if f"train_bound_nats_of_{y}" in figures
        )[1]
        for y in range(3)
    ]
    mean = float((prior.log_weights.exp() * torch.tensor(ends)).sum())
    assert report.curve[-1]["train_bound_nats"] == pytest.approx(mean)


def test_no_class_trained_by_gradient_begins_where_another_one_ended(tmp_path: Path) -> None:
    """Checkpoints of Lightning's loop do not say of which class they are."""

    def trained(kept: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        whole = PerClass(Autoregressive(SPEC, hidden=(8,), num_components=2))
        settings = {"max_epochs": 3, "batch_size": 32, "precision": "32-true"}
        run = replace(lent(), settings=settings, lightning_fit=lightning_fit_with(kept))
        whole.fit(TRAIN, VAL, run)
        return whole.state_dict()

    assert equal(trained(training_states(tmp_path)), trained(None))


def lightning_fit_with(kept: Any) -> Any:
    from training_run import settings

    return lightning_fit(settings(), [], states=kept)
