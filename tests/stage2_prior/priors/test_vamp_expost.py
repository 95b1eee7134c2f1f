"""Pseudo-inputs behind a frozen encoder: where they go, what is kept of them, what they cannot do without."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, assert_refused, report_of, run_here
from prior_cases import run_for, with_encoder
from stopped_run import KilledError, lent, training_states
from torch import Tensor, nn
from training_run import equal

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec
from stage1_vae.posteriors import Delta
from stage2_prior.em.covariances import COVARIANCES
from stage2_prior.em.moving import MovingMixture, PseudoInputs
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.priors.vamp_expost import VampExpost
from stage2_prior.wrappers.per_class import PerClass
from stage2_prior.wrappers.standardize import Standardized

SPEC = LatentSpec((2,))
FEW: dict[str, Any] = {
    "precision": "32-true",
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "average": 0.9,
    "max_epochs": 8,
}


def encode(x: Tensor) -> DiagonalNormal:
    """Two pixels are the mean: between -3 and 3; all posteriors are 0.5 wide."""
    loc = 6 * x.flatten(1) - 3
    return DiagonalNormal(loc, torch.full_like(loc, math.log(0.5)))


def clusters(num: int, seed: int) -> tuple[LatentDataset, Tensor]:
    """Posteriors of images in two corners, three quarters of them in the first, and these images [N, 1, 1, 2]."""
    rng = np.random.default_rng(seed)
    first = rng.random(num) < 0.75
    x = np.where(first[:, None], [0.2, 0.2], [0.8, 0.7]) + 0.02 * rng.normal(size=(num, 2))
    images = torch.from_numpy(x.astype(np.float32)).view(-1, 1, 1, 2)
    return LatentDataset.of(encode(images).loc, encode(images).log_std, (~first).astype(np.int64)), images


TRAIN, IMAGES = clusters(600, 0)
VAL, _ = clusters(200, 1)


def run(prior: VampExpost | Standardized | PerClass, **settings: Any) -> FitRun:
    alone = replace(run_for(prior), settings={**FEW, **settings})
    return replace(alone, encoder=encode, images=lambda rows: IMAGES[rows])


def fitting_to(images: Tensor) -> MovingMixture:
    return MovingMixture(SPEC, COVARIANCES["diagonal"], PseudoInputs(images, encode))


def test_pseudo_inputs_find_the_clusters_and_their_shares() -> None:
    """From two images of the first cluster: one goes to the other, and its weight with it."""
    prior = VampExpost(TRAIN.spec, num_components=2)
    starts = IMAGES[TRAIN.labels == 0][:2] + torch.tensor([[[[0.0, 0.0]]], [[[0.2, 0.2]]]])
    report = prior.fit(TRAIN, VAL, replace(run(prior, max_epochs=60), images=lambda rows: starts))
    second = int(prior.means[:, 0].argmax())
    torch.testing.assert_close(prior.means[1 - second], torch.tensor([-1.8, -1.8]).double(), atol=0.15, rtol=0)
    torch.testing.assert_close(prior.means[second], torch.tensor([1.8, 1.2]).double(), atol=0.15, rtol=0)
    torch.testing.assert_close(prior.scale, torch.full((2, 2), 0.5).double())
    assert abs(float(prior.log_weights.exp()[second]) - 0.25) < 0.05
    z = VAL.draw(torch.arange(200))
    assert report.val_nll_nats == pytest.approx(-float(prior.log_prob(z).mean()), abs=0.3)


def test_what_is_kept_is_the_density_that_was_fitted() -> None:
    """And the net of the encoder gets no gradient and no place in the state."""
    torch.manual_seed(0)
    net = nn.Linear(2, 4).requires_grad_(False)
    prior = VampExpost(SPEC, num_components=5)
    lend = replace(run(prior), encoder=lambda x: DiagonalNormal(*net(x.flatten(1)).chunk(2, 1)))
    prior.fit(TRAIN, VAL, lend)
    assert set(prior.state_dict()) == {"log_weights", "means", "scale"} and not list(prior.parameters())
    assert net.weight.grad is None
    fitting = fitting_to(IMAGES[:5]).eval()
    with torch.no_grad():
        fixed = VampExpost(SPEC, num_components=5)
        fixed.keep(fitting.components())
        z = TRAIN.draw(torch.arange(50))
        torch.testing.assert_close(fitting.log_prob(z), fixed.log_prob(z), atol=1e-5, rtol=1e-5)
    assert fitting.sample(7).shape == (7, 2)


def test_pixels_stay_among_those_of_images() -> None:
    inputs = PseudoInputs(IMAGES[:5], encode).eval()
    fitting = MovingMixture(SPEC, COVARIANCES["diagonal"], inputs)
    with torch.no_grad():
        inputs.pixels.add_(torch.tensor([-3.0, 3.0]))
    (-fitting.eval().components().means.sum()).backward()
    assert inputs.pixels.grad is not None and not inputs.pixels.grad.any(), "beyond the range nothing is seen"
    fitting.train().loss(TRAIN.draw(torch.arange(50))).sum().backward()
    assert inputs.pixels.min() == 0 and inputs.pixels.max() == 1 and inputs.pixels.grad.any()


def test_a_fit_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def lending(states: Any = None, epoch: int = 0) -> FitRun:
        stopped = lent(states, epoch or None, **FEW)
        return replace(stopped, encoder=encode, images=lambda rows: IMAGES[rows])

    whole = VampExpost(SPEC, num_components=5)
    whole.fit(TRAIN, VAL, lending())
    with pytest.raises(KilledError):
        VampExpost(SPEC, num_components=5).fit(TRAIN, VAL, lending(training_states(tmp_path), 3))
    said: list[str] = []
    other = VampExpost(SPEC, num_components=5)
    other.fit(TRAIN, VAL, lending(training_states(tmp_path, said)))
    assert said[0].startswith("continues after epoch 3 of ") and equal(other.state_dict(), whole.state_dict())


def test_standardised_and_a_class_it_is_lent_what_belongs_to_it() -> None:
    alone, wrapped = VampExpost(SPEC, num_components=20), Standardized(VampExpost(SPEC, num_components=20))
    z = VAL.draw(torch.arange(200))
    for prior in (alone, wrapped):
        prior.fit(TRAIN, VAL, run(prior, learning_rate=1e-9))  # they stay where they begin
    torch.testing.assert_close(wrapped.log_prob(z), alone.log_prob(z), atol=1e-3, rtol=1e-3)
    of_classes = PerClass(VampExpost(TRAIN.spec, num_components=20))
    of_classes.fit(TRAIN, VAL, run(of_classes))
    means = torch.stack([prior.means.mean(0) for prior in of_classes._members() if isinstance(prior, VampExpost)])
    torch.testing.assert_close(means, torch.tensor([[-1.8, -1.8], [1.8, 1.2]]).double(), atol=0.15, rtol=0)


def test_without_an_encoder_or_widths_it_is_refused() -> None:
    prior = VampExpost(SPEC, num_components=5)
    with pytest.raises(PriorError, match=r"needs the images and the encoder .* prior=mixture does without"):
        prior.fit(TRAIN, VAL, replace(run(prior), encoder=None, images=None))
    with pytest.raises(PriorError, match=r"posteriors with widths"):
        prior.fit(TRAIN, VAL, replace(run(prior), encoder=lambda x: Delta(x.flatten(1))))
    with pytest.raises(PriorError, match="601 components for 600 training images"):
        VampExpost(SPEC, num_components=601).fit(TRAIN, VAL, with_encoder(run(prior), SPEC))


def test_a_run_in_little(tmp_path: Path) -> None:
    """The trained VAE is lent; latents from files, which have none, are refused before any work."""
    result = run_here(tmp_path, *SMALL, "prior=vamp_expost")
    assert result.code == 0, result.err
    assert "vamp_expost" in str(report_of(tmp_path)["rows"])
    np.savez(tmp_path / "latents.npz", loc=np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32))
    before = sorted(tmp_path.rglob("*"))
    words = ["data=latents", f"data.root={tmp_path / 'latents.npz'}", "prior=vamp_expost", "prior.num_components=5"]
    refused = run_here(tmp_path, *words)
    assert_refused(refused, tmp_path, "latents alone", "prior=mixture", before=before)
