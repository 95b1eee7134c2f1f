"""Inference gaps of a trained model, as the pipeline asks for them."""

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
from expost.evaluation.annealing.gaps import Effort
from expost.evaluation.annealing.path import Annealing
from expost.evaluation.errors import EvaluationError
from expost.evaluation.page import inference_gaps
from expost.evaluation.report import Row
from expost.evaluation.sections import GapsRow, InferenceGaps
from expost.job import Job
from expost.measure.inference.gaps import add_gaps, check_gaps, families, measure_gaps
from expost.measure.subject import ImageSubject
from expost.parts.assembly import assemble
from expost.store.artifacts import Store
from stage2_prior.prior import Exactness
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal

LITTLE = Effort(
    num_steps=60, num_draws=100, num_chains=4, num_transitions=20, leapfrog_steps=3, annealing=Annealing(4, 20, 3)
)


def trained(folder: Path, *words: str) -> tuple[ImageSubject, Job]:
    """A model of the digits with fresh weights and a prior that nobody fitted."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(compose("config", overrides=[*SMALL, f"paths.root={folder}", *words]))
    run = Job(config, Command(), Store(folder / "store"), quiet=True, max_images=200)
    run, built = assemble(run)
    parts = built.of_images
    parts.vae.eval()
    latents = encoded(parts.vae, parts.batches(parts.data.test, 100), folder)
    baseline = StandardNormal(parts.vae.spec)
    return ImageSubject(parts, parts.prior.eval(), baseline, latents, latents, run.device, vae=parts.vae), run


@pytest.mark.parametrize("vae", ["gaussian", "iaf"])
def test_gaps_of_two_priors(tmp_path: Path, vae: str) -> None:
    both, run = trained(tmp_path, f"vae={vae}", "evaluation.gaps=6")
    assert isinstance(both.prior, Mixture)
    both.prior.scale = both.prior.scale * 0.8
    found = measure_gaps(both, run, "mixture", LITTLE)
    assert found is not None
    stored: dict[str, Any] = found.to_json()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored and InferenceGaps.from_json(stored) == found
    assert found.num_images == 6 and list(found.rows) == ["standard_normal", "mixture"]
    for row in found.rows.values():
        values = {key: value["value"] for key, value in row.to_json().items() if isinstance(value, dict)}
        nll = min(values["ais_nats"], values["hmc_nats"])
        assert values["amortisation_gap_nats"] > 0.1, "an encoder that nobody trained is not the best"
        assert values["approximation_gap_nats"] > -0.1
        whole = values["elbo_nats"] - nll
        assert values["amortisation_gap_nats"] + values["approximation_gap_nats"] == pytest.approx(whole, abs=1e-6)
        assert values["moved_joint_nats"] < values["joint_nats"] and 0.2 < row.acceptance < 0.99
        assert all(key.endswith("_nats") and row.to_json()[key]["standard_error"] > 0 for key in values)
        assert "estimates on 6 test images" in row.notes[0] and "too small" in row.notes[0]
    again = measure_gaps(both, run, "standard_normal", LITTLE)
    assert again is not None and again.rows["standard_normal"] == found.rows["standard_normal"]

    rows = add_gaps_to(found)
    gap = found.rows["mixture"].approximation_gap_nats
    assert rows["mixture"].approximation_gap_nats == gap.value
    assert rows["mixture"].spread["approximation_gap_nats"] == gap.standard_error
    cells = inference_gaps(found)
    assert [label for label, _ in cells.lines] == ["N(0, I)", "mixture"] and all("±" in t for t in cells.lines[1][1])


def add_gaps_to(found: InferenceGaps) -> dict[str, Row]:
    rows = {name: Row() for name in found.rows}
    add_gaps(rows, found)
    return rows


def test_gaps_are_off_unless_asked_for(tmp_path: Path) -> None:
    both, run = trained(tmp_path)
    assert run.config.evaluation.gaps == 0 and measure_gaps(both, run, "mixture") is None
    assert inference_gaps(None).lines == []


def test_a_prior_without_a_density_has_a_note_instead(tmp_path: Path) -> None:
    both, run = trained(tmp_path, "evaluation.gaps=2")

    class Implicit(StandardNormal):
        log_prob_is = Exactness.NONE

    found = measure_gaps(replace(both, prior=Implicit(both.vae.spec)), run, "implicit", LITTLE)
    assert found is not None and found.rows["implicit"] == GapsRow(
        notes=("no inference gaps: Implicit has no density: no bound on log p(x)",)
    )
    assert found.rows["standard_normal"].approximation_gap_nats is not None
    assert "no density" in add_gaps_to(found)["implicit"].notes[0]


def test_an_exact_density_without_a_gradient_has_a_note_instead(tmp_path: Path) -> None:
    both, run = trained(tmp_path, "evaluation.gaps=2")

    class Cut(StandardNormal):
        def _log_prob(self, z: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
            return super()._log_prob(z.detach(), context)

    found = measure_gaps(replace(both, prior=Cut(both.vae.spec)), run, "cut", LITTLE)
    assert found is not None and "not differentiable in z" in found.rows["cut"].notes[0]
    assert found.rows["cut"].elbo_nats is None


@pytest.mark.parametrize(("vae", "sizes"), [("gaussian", [16, 16]), ("iaf", [16, 16, 32])])
def test_the_family_of_an_image_holds_its_own_posterior(tmp_path: Path, vae: str, sizes: list[int]) -> None:
    both, _ = trained(tmp_path, f"vae={vae}")
    x = both.parts.data.test.batch(torch.arange(3)).float() / 16
    known = families(both.vae)(x)
    assert [value.shape for value in known.values] == [(3, size) for size in sizes]
    own, z = both.vae.encode(x).posterior, torch.randn(3, 16)
    torch.testing.assert_close(known.at(known.values).log_prob(z), own.log_prob(z))
    moved = [value + 0.1 * unit for value, unit in zip(known.values, known.units, strict=True)]
    assert not torch.allclose(known.at(moved).log_prob(z), own.log_prob(z))


def test_posteriors_without_a_density_are_refused_before_any_work(tmp_path: Path) -> None:
    both, run = trained(tmp_path, "evaluation.gaps=2", "vae=delta")
    with pytest.raises(EvaluationError, match=r"set evaluation\.gaps=0 or train with noise"):
        check_gaps(run, both.parts)
    _, off = trained(tmp_path, "vae=delta")
    check_gaps(off, both.parts)
