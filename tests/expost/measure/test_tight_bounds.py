"""Annealing of a trained model, as the pipeline asks for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL
from encoded import encoded
from hydra import compose, initialize_config_dir

from expost.base.command import Command
from expost.cli import CONF
from expost.config.schema import validate
from expost.evaluation.errors import EvaluationError
from expost.job import Job
from expost.measure.bounds import check_tight_bounds, tight_bounds
from expost.measure.subject import ImageSubject
from expost.parts.assembly import assemble
from expost.store.artifacts import Store
from stage2_prior.prior import Exactness
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal

FEW = (
    "evaluation=tight",
    "evaluation.annealing.num_images=6",
    "evaluation.annealing.num_chains=4",
    "evaluation.annealing.num_steps=40",
    "evaluation.annealing.leapfrog_steps=2",
    "evaluation.annealing.bdmc_images=5",
)


def trained(folder: Path, *words: str) -> tuple[ImageSubject, Job]:
    """A model of the digits with fresh weights and a prior that nobody fitted: what is measured is still defined."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(compose("config", overrides=[*SMALL, f"paths.root={folder}", *words]))
    run = Job(config, Command(), Store(folder / "store"), quiet=True, max_images=200)
    run, built = assemble(run)
    parts = built.of_images
    parts.vae.eval()
    latents = encoded(parts.vae, parts.batches(parts.data.test, 100), folder)
    baseline = StandardNormal(parts.vae.spec)
    return ImageSubject(parts, parts.prior.eval(), baseline, latents, latents, run.device, vae=parts.vae), run


def stored(both: ImageSubject, job: Job, name: str) -> dict[str, Any]:
    """The bounds as `figures.json` holds them."""
    bounds = tight_bounds(both, job, name)
    assert bounds is not None
    return bounds.to_json()


def test_off_unless_asked_for(tmp_path: Path) -> None:
    both, run = trained(tmp_path)
    assert run.config.evaluation.annealing is None
    assert tight_bounds(both, run, "mixture") is None


def test_every_figure_of_two_priors(tmp_path: Path) -> None:
    both, run = trained(tmp_path, *FEW)
    assert isinstance(both.prior, Mixture)
    both.prior.scale = both.prior.scale * 0.8
    result = stored(both, run, "mixture")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["num_images"] == 6 and result["num_steps"] == 40
    assert list(result["rows"]) == ["standard_normal", "mixture"]
    for row in result["rows"].values():
        assert row["ais_nats"] < row["iwae_nats"] + 0.5  # of the same images, with fewer samples
        assert 0 < row["ais_std_error_nats"] < 50
        assert abs(row["bdmc_gap_nats"]) < 5 and row["bdmc_gap_std_error_nats"] > 0
        assert 0.4 < row["acceptance"] < 0.9 and row["acceptance_range"][0] <= row["acceptance"]
        assert row["trusted_images"] == 6 and not any("trusted" in note for note in row["notes"])
    alone = stored(both, run, "standard_normal")["rows"]
    assert alone["standard_normal"] == result["rows"]["standard_normal"]  # the same seed, the same figures
    assert result["rows"]["mixture"]["ais_nats"] != result["rows"]["standard_normal"]["ais_nats"]


def test_a_prior_without_a_density_gets_a_note_and_the_other_its_figures(tmp_path: Path) -> None:
    both, run = trained(tmp_path, *FEW, "evaluation.annealing.bdmc_images=0")

    class Implicit(StandardNormal):
        log_prob_is = Exactness.NONE

    rows = stored(replace(both, prior=Implicit(both.vae.spec)), run, "implicit")["rows"]
    assert rows["implicit"]["ais_nats"] is None and rows["implicit"]["bdmc_gap_nats"] is None
    assert rows["implicit"]["notes"] == ["Implicit has no density: no bound on log p(x)"]
    assert rows["standard_normal"]["ais_nats"] > 0 and rows["standard_normal"]["bdmc_gap_nats"] is None


def test_a_cross_entropy_is_called_one(tmp_path: Path) -> None:
    both, run = trained(tmp_path, *FEW, "evaluation.annealing.bdmc_images=0", "likelihood=bernoulli")
    row = stored(both, run, "standard_normal")["rows"]["standard_normal"]
    assert "cross-entropy" in row["notes"][0] and "no log-likelihoods" in row["notes"][0]


def test_a_diverging_model_is_marked_in_words(tmp_path: Path) -> None:
    both, run = trained(tmp_path, *FEW)
    with torch.no_grad():
        for parameter in both.vae.decoder.parameters():
            parameter.fill_(torch.nan)
    row: dict[str, Any] = stored(both, run, "standard_normal")["rows"]["standard_normal"]
    assert row["ais_nats"] is None and row["bdmc_gap_nats"] is None and row["trusted_images"] == 0
    assert any("no chain of 6 of 6 images has a weight" in note for note in row["notes"])
    assert any(note.startswith("simulated images: ") for note in row["notes"])
    json.dumps(row, allow_nan=False)


def test_point_masses_are_refused_before_any_work(tmp_path: Path) -> None:
    both, run = trained(tmp_path, *FEW, "vae=delta")
    with pytest.raises(EvaluationError, match="moves through real latents from a normal"):
        check_tight_bounds(run, both.parts)
    with pytest.raises(EvaluationError, match="real latents"):
        tight_bounds(both, run, "mixture")
    _, off = trained(tmp_path, "vae=delta")
    check_tight_bounds(off, both.parts)
