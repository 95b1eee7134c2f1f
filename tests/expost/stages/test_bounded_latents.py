"""VAEs whose latents live on a sphere or in a box, from images to an exported model, in little; and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused, report_of, run_here

from expost.export.two_stage import TwoStage
from stage1_vae.latents import TruncatedNormal

LITTLE = ("debug=fast", "trainer.val_every=2", "net.hidden=[32]", "logger=csv", "vae.bottleneck.latent_dim=4")
RUNS = {
    "spherical": ("vae=hyperspherical", "prior=spherical_mixture", "prior.num_components=3"),
    "chart": ("vae=hyperspherical", "prior=mixture", "prior.num_components=3"),
    "network": ("vae=hyperspherical", "prior=autoregressive", "prior.hidden=[16]"),
    "box": ("vae=uniform_base", "prior=mixture", "prior.num_components=3"),
}


@pytest.mark.parametrize("name", RUNS)
def test_from_images_to_an_exported_model(tmp_path: Path, name: str) -> None:
    words = (*LITTLE, *RUNS[name])
    result = run_here(tmp_path, *words)
    assert result.code == 0, result.err
    report = report_of(tmp_path)
    assert report["baseline"] == "uniform"
    assert set(report["rows"]) >= {"uniform", RUNS[name][1].removeprefix("prior=")}
    for row in (report["rows"][key] for key in ("uniform", RUNS[name][1].removeprefix("prior="))):
        for figure in ("rate_nats", "elbo_nats", "iwae_nats", "latent_nll_nats"):
            assert row[figure] is not None and np.isfinite(row[figure]), figure

    for stage, more in {"sample": ("sample.num=12", "sample.out=drawn.npz"), "export": ("export.out=model",)}.items():
        result = run_here(tmp_path, *words, f"stage={stage}", *more)
        assert result.code == 0, result.err
    model = TwoStage.load(tmp_path / "model")
    torch.manual_seed(0)
    z = model.sample_latents(50)
    if name == "box":
        assert z.abs().max() < 1
    else:
        assert (z.norm(dim=1) - 1).abs().max() < 1e-5
    assert model.decode(z).shape == (50, 1, 8, 8)
    posterior = model.encode(torch.rand(3, 1, 8, 8))
    assert isinstance(posterior, TruncatedNormal) is (name == "box")
    assert model.prior.log_prob(posterior.sample()).isfinite().all()


def test_images_are_scored_alike_wherever_they_stand(tmp_path: Path) -> None:
    words = (*LITTLE, *RUNS["spherical"])
    assert run_here(tmp_path, *words).code == 0
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, size=(5, 8, 8)).astype(np.uint8)
    scores = []
    for name, rows in {"all": slice(None), "few": slice(2, 4)}.items():
        np.save(tmp_path / f"{name}.npy", images[rows])
        more = ("stage=score", f"score.root={name}.npy", f"score.out={name}.csv", "score.importance_samples=8")
        result = run_here(tmp_path, *words, *more)
        assert result.code == 0, result.err
        lines = (tmp_path / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        header = lines[0].split(",")
        assert "log_prob_z_nats" in header
        column = header.index("log_prob_z_nats")
        scores.append([float(line.split(",")[column]) for line in lines[1:]])
    assert scores[0][2:4] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vae=uniform_base", "prior=spherical_mixture"), "models directions; these latents are box; priors that do:"),
        (("vae=gaussian", "prior=spherical_mixture"), "models directions; these latents are real; priors that do:"),
        (("vae=hyperspherical", "prior=unigram"), "counts codes and bits; these latents are sphere; priors that do:"),
        (("vae=hyperspherical", "prior=vamp_expost"), "made of normal posteriors; these latents are sphere"),
        (("vae=uniform_base", "prior=aggregate"), "widen points by prior.bandwidth=held_out"),
        (
            ("vae=hyperspherical", "stage=joint"),
            "learned with VAEs of real numbers or bits, and these latents are sphere",
        ),
        (
            ("vae=hyperspherical", "+vae.prior=mixture"),
            "learned with VAEs of real numbers or bits, and these latents are",
        ),
        (("vae=hyperspherical", "vae.bottleneck.max_concentration=1e9"), "max_concentration=1e+09 is out of what"),
        (("vae=hyperspherical", "vae.bottleneck.latent_dim=1"), "latent_dim must be at least 2 on a sphere"),
        (("vae=uniform_base", "vae.bottleneck.max_log_std=50"), "give bounds from -12 to 6"),
        (("vae=uniform_base", "evaluation=tight"), "annealing moves through real latents"),
        (("vae=hyperspherical", "prior=spherical_mixture", "prior.num_components=5000"), "lower prior.num_components"),
    ],
)
def test_what_cannot_go_together_is_refused_before_training(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = run_here(tmp_path, "debug=fast", "logger=csv", *words)
    assert_refused(result, tmp_path, said, data_was_read=bool(result.out))
