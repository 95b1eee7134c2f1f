"""vae=identity: images reach stage 2 unchanged, nothing is trained, and the report stands beside the known density."""

import json
from pathlib import Path

import pytest
import torch
from command_line import composed, report_of, run_here
from encoded import encoded
from latent_values import means

from expost.measure.bounds import carries_unchanged
from stage1_vae.bottlenecks.identity import Identity as IdentityBottleneck
from stage1_vae.data.mixture_rings import MixtureRings
from stage1_vae.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood
from stage1_vae.nets.identity import Identity
from stage1_vae.nets.mlp import MLP
from stage1_vae.vae import VAE

FAST = ("data=mixture_rings", "vae=identity", "debug=fast", "logger=csv", "prior.num_components=30")


def test_it_brings_its_net_and_likelihood_and_the_command_line_wins() -> None:
    config = composed("vae=identity")
    assert config.net._target_.endswith("Identity") and config.likelihood._target_.endswith("GaussianLikelihood")
    assert composed("likelihood=bernoulli", "vae=identity").likelihood._target_.endswith("BernoulliLikelihood")
    assert composed("net=mlp", "vae=identity").net._target_.endswith("MLP")
    assert composed("vae=gaussian").net._target_.endswith("MLP")


def test_images_go_through_unchanged(tmp_path: Path) -> None:
    x = torch.randn(6, 2, 3, 4)
    for likelihood in (GaussianLikelihood(), BernoulliLikelihood()):
        vae = VAE((2, 3, 4), Identity(), IdentityBottleneck, likelihood)
        assert carries_unchanged(vae) and vae.spec.shape == (24,) and vae.bottleneck.base_prior is None
        latents = encoded(vae, [(x[:4], None), (x[4:], None)], tmp_path)
        assert latents.is_point_mass and torch.equal(means(latents), x.flatten(1))
    assert torch.equal(
        VAE((2, 3, 4), Identity(), IdentityBottleneck, GaussianLikelihood()).decode(x.flatten(1)).mean, x
    )
    assert not carries_unchanged(VAE((2, 3, 4), MLP(), IdentityBottleneck, GaussianLikelihood()))


def test_a_likelihood_that_reads_more_is_refused() -> None:
    with pytest.raises(ValueError, match="likelihood=gaussian"):
        VAE((2, 3, 4), Identity(), IdentityBottleneck, DiscretizedLogisticLikelihood())


def test_the_report_stands_beside_the_known_density(tmp_path: Path) -> None:
    result = run_here(tmp_path, *FAST)
    assert result.code == 0, result.err
    assert "nothing to train" in result.out and "the true density: -log p(x) is" in result.out
    report = report_of(tmp_path)
    source = MixtureRings()
    data = source.load()
    x = data.test.batch(torch.linspace(0, len(data.test) - 1, 256).round().long())
    truth = -source.density().log_prob(x).mean().item()
    assert report["true_nll_nats"] == pytest.approx(truth, abs=1e-9)
    row = report["rows"]["mixture"]
    assert truth - 0.1 < row["latent_nll_nats"] < truth + 0.25, "30 components follow three rings"
    assert report["rows"]["standard_normal"]["latent_nll_nats"] > truth + 0.8
    assert row["distortion_nats"] is None and row["rate_nats"] is None and row["iwae_nats"] is None
    assert "2 values of the pixels themselves" in report["features"]
    assert json.loads(next((tmp_path / "runs/store/vae").glob("*/history.json")).read_text(encoding="utf-8")) == []
    again = run_here(tmp_path, *FAST)
    assert "vae" in again.stages("skipped") and again.code == 0


def test_one_line_where_it_cannot_be(tmp_path: Path) -> None:
    for words in (("vae=identity", "likelihood=discretized_logistic"), ("net=identity",)):
        result = run_here(tmp_path, *words)
        assert result.code == 2 and len(result.lines) == 1 and "net=identity" in result.err, result.err
