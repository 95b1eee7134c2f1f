"""What a verdict tells people to do can be done: for the prior, its fit, its latents and its images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import report_of
from whole_run import run_lent

from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Classes, Estimate, Fitting, Share
from expost.evaluation.verdict import classes_followed, over_counting
from expost.measure.remedies import fitting, for_own_empty_code
from expost.parts.priors import prior_nodes
from stage1_vae.latents import LatentSpec, Support
from stage2_prior.fitting import FitReport

CODES = LatentSpec((49,), Support.CODES, num_codes=(256,), grids=((7, 7),))
TWO_MAPS = LatentSpec((20,), Support.CODES, num_codes=(256, 64), grids=((4, 4), (2, 2)))
VECTOR = LatentSpec((16,))
BITS = LatentSpec((6,), Support.BITS)
ONE_CODE = LatentSpec((1,), Support.CODES, num_codes=(256,), grids=((1, 1),))
FALLING = FitReport(1.0, None, None, [{"epoch": i, "val_nll_nats": 9.0 - i} for i in range(5)])
RISING = FitReport(1.0, None, None, [{"epoch": i, "val_nll_nats": abs(i - 1.0)} for i in range(5)])
NO_CURVE = FitReport(1.0, None, None)
LABELS = torch.arange(1000) % 10 // 9  # 900 and 100


def remedy(name: str, spec: LatentSpec, report: FitReport = FALLING, labels: Any = None, **changed: Any) -> str:
    return fitting(name, prior_nodes()[name] | changed, spec, labels, report).remedy


@pytest.mark.parametrize("name", ["unigram", "bigram"])
@pytest.mark.parametrize(
    ("spec", "network"), [(CODES, "transformer"), (TWO_MAPS, "transformer"), (BITS, "transformer")]
)
def test_what_counts_is_not_to_be_trained(name: str, spec: LatentSpec, network: str) -> None:
    advice = remedy(name, spec)
    assert "longer" not in advice and "it only counts" in advice and advice.endswith(f"prior={network}")


def test_a_network_is_one_that_can_model_the_latents() -> None:
    many = LatentSpec((10_000,), Support.CODES, num_codes=(256,), grids=((100, 100),))
    assert remedy("unigram", many).endswith("prior=pixelcnn")
    assert remedy("gaussian", VECTOR).endswith("prior=autoregressive")


@pytest.mark.parametrize("name", ["transformer", "pixelcnn"])
def test_more_epochs_help_only_a_fit_that_was_still_getting_better(name: str) -> None:
    assert remedy(name, CODES).startswith("train it longer (prior.fit.max_epochs")
    advice = remedy(name, CODES, RISING)
    assert "best at epoch 2 of 5, so more epochs do not help" in advice and "prior.width, prior.depth" in advice
    limit = replace(FALLING, notes=["stopped after epoch 5 at the limit of 60 seconds"])
    fit = prior_nodes()[name]["fit"] | {"max_seconds": 60}
    assert remedy(name, CODES, limit, fit=fit) == "its fit ended at prior.fit.max_seconds=60: raise it"


def test_every_key_that_is_named_is_one_of_the_prior() -> None:
    for name, node in prior_nodes().items():
        for fit in (FALLING, RISING):
            for word in remedy(name, VECTOR, fit).replace("(", " ").replace(")", " ").replace(",", " ").split():
                if word.startswith("prior.") and "=" not in word:
                    section: Any = node
                    for key in word.split(".")[1:]:
                        assert key in section, f"{word} of {name}"
                        section = section[key]


def test_a_mixture_gets_iterations_or_components_while_there_are_images() -> None:
    stopped = replace(NO_CURVE, notes=["class 1: EM stopped at prior.max_iter=200 iterations before it converged"])
    assert remedy("mixture", VECTOR, stopped, LABELS) == "EM ended at prior.max_iter=200 before it converged: raise it"
    advice = remedy("mixture", VECTOR, NO_CURVE, LABELS, num_components=5)
    assert "more than prior.num_components=5 (the rarest class has 100 training images)" in advice
    advice = remedy("mixture", VECTOR, NO_CURVE, LABELS[:60], num_components=6)
    assert "6 training images, too few for more components" in advice and "longer" not in advice


def test_a_gaussian_is_fitted_exactly() -> None:
    assert "choose prior=mixture prior.num_components=10, or" in remedy("gaussian", VECTOR, labels=LABELS)
    assert "prior=mixture" not in remedy("gaussian", VECTOR, labels=torch.tensor([0, 0, 1]))


def over(name: str, spec: LatentSpec, before: float = 25.0, difference: float = 1.0) -> str:
    gain = {"latent_nll_nats": Estimate(difference, 0.1)}
    rows = {"bigram": Row(latent_nll_nats=before), name: Row(over={"bigram": gain})}
    how = fitting(name, prior_nodes()[name], spec, None, FALLING)
    return over_counting(name, Report("d", "f", rows=rows, fitting={name: how}))


def test_only_what_could_have_won_has_failed() -> None:
    assert over("transformer", CODES).startswith("FAILED") and "train it longer (" in over("transformer", CODES)
    counted = over("unigram", CODES)
    assert counted.startswith("The prior unigram costs no fewer nats than bigram (25.00") and "longer" not in counted
    alone = over("transformer", ONE_CODE)
    assert "FAILED" not in alone and alone.endswith("of latents of one code none can.")
    nothing = over("transformer", CODES, before=0.04, difference=0.0)
    assert nothing.startswith("There is nothing to win for the prior transformer") and "stage 1" in nothing
    assert "a difference inside the noise" in over("transformer", CODES, difference=-0.1)


def share(value: float) -> Share:
    return Share(value, 0.02, 200)


@pytest.mark.parametrize(
    ("samples", "decoded", "real", "begins"),
    [
        (0.50, 0.90, 0.95, "FAILED: samples of mixture do not follow their label"),
        (0.50, None, 0.95, "FAILED"),
        (0.50, 0.51, 0.52, "Whether samples of mixture follow their label cannot be told"),  # the judge is blind
        (0.60, 0.51, 0.52, "Whether samples of mixture follow their label cannot be told"),
        (0.50, 0.52, 0.95, "Samples of mixture do not show their class, and neither do reconstructions"),  # stage 1
        (0.53, 0.56, 0.95, "Whether samples of mixture follow their label cannot be told"),  # noise
        (0.80, 0.90, 0.95, "Of 200 samples of mixture"),
    ],
)
def test_a_prior_is_held_to_what_can_be_seen(samples: float, decoded: Any, real: Any, begins: str) -> None:
    reconstructions = None if decoded is None else share(decoded)
    classes = Classes(100, 0.5, "a classifier", share(samples), reconstructions, share(real), ())
    line = classes_followed(classes, "mixture", Fitting("iterations", "give it more components", 16))
    assert line.startswith(begins)
    assert ("give it more components" in line) == begins.startswith("FAILED") and "longer" not in line


def test_a_counting_prior_that_was_chosen_is_not_told_to_train(tmp_path: Path) -> None:
    done = run_lent(tmp_path, "debug=fast", "logger=csv", "vae=vq", "prior=unigram")
    assert (done.code, done.err) == (0, "")
    report = report_of(tmp_path)
    assert report["fitting"]["unigram"]["by"] == "counting" and "longer" not in report["verdict"]


ELBO_NODE = {"beta": 1.0, "warmup_steps": 0, "free_nats": 0.0, "beta_norm": None}
BERNOULLI = {"_target_": "BernoulliLikelihood"}


@pytest.mark.parametrize(
    ("objective", "likelihood", "named"),
    [
        ({"beta": 50.0}, BERNOULLI, "lower vae.objective.beta=50 (1 is the bound; a mean over 64 pixels beside a sum"),
        ({"beta": 8.0}, BERNOULLI, "lower vae.objective.beta=8 (1 is the bound)"),
        ({"alone_beta": 4.0}, BERNOULLI, "lower vae.objective.alone_beta=4 (1 is the bound)"),
        ({"beta_norm": 2.0}, BERNOULLI, "lower vae.objective.beta_norm=2 (0.25 is the bound)"),
        ({"free_nats": 0.02}, BERNOULLI, "raise vae.objective.free_nats=0.02, which lets 16 dimensions idle at 0.32"),
        ({}, {"scale": 3.0, "learned": False}, "lower likelihood.scale=3"),
        ({}, {"scale": 3.0, "learned": True}, "trainer.max_epochs, or raise vae.objective.free_nats"),
    ],
)
def test_an_empty_code_is_told_what_empties_it(objective: Any, likelihood: Any, named: str) -> None:
    assert named in for_own_empty_code(ELBO_NODE | objective, likelihood, 64, VECTOR)


def test_every_cause_is_told_and_codes_have_their_own() -> None:
    both = for_own_empty_code(ELBO_NODE | {"beta": 9.0, "free_nats": 0.02}, BERNOULLI, 64, VECTOR)
    assert "vae.objective.beta=9" in both and "vae.objective.free_nats=0.02" in both
    assert "vae.bottleneck.num_codes" in for_own_empty_code(ELBO_NODE, BERNOULLI, 64, CODES)
    assert "trainer.max_epochs" in for_own_empty_code({"weight": 300.0}, BERNOULLI, 64, VECTOR)


def test_a_frozen_model_is_told_of_means_beside_sums(tmp_path: Path) -> None:
    """A mean over pixels beside a sum over latents, in the module of somebody else."""
    (tmp_path / "empty.py").write_text(EMPTY, encoding="utf-8")
    module = f"vae.module={tmp_path / 'empty.py'}:Empty"
    words = ("data=digits", "vae=module", module, "prior=gaussian", "logger=csv", "evaluation.num_samples=512")
    done = run_lent(tmp_path, *words)
    assert (done.code, done.err) == (0, "")
    verdict = report_of(tmp_path)["verdict_lines"][0]
    assert (
        verdict.startswith("The code has all but collapsed") and "4 of 8 latent dimensions count as active" in verdict
    )
    assert "a mean over its 64 pixels beside a sum over latents" in verdict and "vae.module" in verdict


EMPTY = """
import torch
from sklearn.datasets import load_digits

class Empty(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.middle = torch.nn.Buffer(torch.tensor(load_digits().images.mean(0) / 16).float())
    def encode(self, x):
        mean = x.flatten(1)[:, 16:24] - 0.4
        return 0.4 * mean, 0 * mean
    def decode(self, z):
        return self.middle.expand(len(z), 1, 8, 8)
"""
