"""`vae=iaf` through all stages, whose latents are stored as draws: a real run in little, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, assert_refused, report_of, run_here

from expost.export.two_stage import TwoStage
from stage1_vae.latents import LatentDataset

WORDS = (*SMALL, "vae=iaf")


def test_all_stages_of_a_flow_posterior(tmp_path: Path) -> None:
    result = run_here(tmp_path, *WORDS, "evaluation.gaps=2")
    assert result.code == 0, result.err
    report = report_of(tmp_path)
    rows = {name: report["rows"][name] for name in ("standard_normal", "mixture")}
    for row in rows.values():
        assert row["rate_nats"] > 0 and row["iwae_nats"] < row["elbo_nats"] and row["marginal_kl_nats"] is None
        assert row["approximation_gap_nats"] is not None and row["amortisation_gap_nats"] is not None
    assert any("stored as 16 draws each" in note for note in report["notes"]) and report["surgery"]["train"] is None
    assert report["gaps"]["num_images"] == 2
    page = next((tmp_path / "runs").glob("*iaf*/report.html")).read_text(encoding="utf-8")
    assert "What the ELBO lacks" in page and "amortisation gap" in page
    (latents,) = (tmp_path / "runs" / "store" / "latents").iterdir()
    stored = LatentDataset.load(latents / "test")
    assert stored.family == "draws" and len(stored.params) == 16

    drawn = run_here(tmp_path, *WORDS, "stage=sample", "sample.num=5", "sample.out=samples.npz")
    assert drawn.code == 0, drawn.err
    pictures = np.load(tmp_path / "samples.npz")["x"]
    np.save(tmp_path / "given.npy", (16 * pictures[:, 0] / pictures.max()).round().astype(np.uint8))
    scored = run_here(tmp_path, *WORDS, "stage=score", "score.root=given.npy", "score.out=scores.csv")
    assert scored.code == 0, scored.err
    assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == 6
    exported = run_here(tmp_path, *WORDS, "stage=export", "export.out=model")
    assert exported.code == 0, exported.err
    model = TwoStage.load(tmp_path / "model")
    x = torch.round(16 * model.sample(3)) / 16
    posterior = model.encode(x)
    z = posterior.rsample()
    assert posterior.mean.shape == z.shape == (3, 16)
    with torch.no_grad():
        torch.testing.assert_close(posterior.log_prob(z.clone()), posterior.log_prob(z), rtol=1e-3, atol=1e-2)
    assert torch.isfinite(model.log_prob_bound(x)).all()


def test_gaps_are_measured_beside_figures_that_stay(tmp_path: Path) -> None:
    """Asking for gaps makes another evaluation, of the same numbers, and nothing before it anew."""
    assert run_here(tmp_path, *SMALL).code == 0
    before = report_of(tmp_path)["rows"]["mixture"]
    result = run_here(tmp_path, *SMALL, "evaluation.gaps=2")
    assert result.code == 0, result.err
    assert result.stages("skipped") == ["vae", "latents", "prior", "features"]
    after = report_of(tmp_path)["rows"]["mixture"]
    same = ("distortion_nats", "elbo_nats", "iwae_nats", "frechet_distance")
    assert {key: before[key] for key in same} == {key: after[key] for key in same}
    assert before["approximation_gap_nats"] is None and after["approximation_gap_nats"] is not None


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("vae=iaf", "vae.objective.free_nats=0.1"), ("set vae.objective.free_nats=0",)),
        (("vae=iaf", "vae.bottleneck.latent_dim=1"), ("at least 2, or use vae=gaussian",)),
        (("vae=iaf", "vae.bottleneck.num_flows=0"), ("vae.bottleneck.num_flows=0",)),
        (("vae=iaf", "prior=kde", "prior.bandwidth=0"), ("prior.bandwidth=held_out",)),
        (("vae=iaf", "prior=unigram"), ("priors that do:",)),
        (("vae=delta", "evaluation.gaps=4"), ("set evaluation.gaps=0",)),
        (("vae=fsq", "prior=transformer", "evaluation.gaps=4"), ("set evaluation.gaps=0",)),
        (("evaluation.gaps=-1",), ("evaluation.gaps",)),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    small = [word for word in SMALL if not word.startswith(("prior.", "net."))]
    assert_refused(run_here(tmp_path, *small, *words), tmp_path, *parts)
