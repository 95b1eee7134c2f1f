"""The judge without images: latents of every kind, in every unit, from files to a report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_model import job

from expost import pipeline
from expost.evaluation.report import Report
from expost.evaluation.row_names import AGGREGATE, MOMENT_MATCHED, RECONSTRUCTIONS, TRAIN_AGAINST_TEST
from expost.measure.latent_evaluation import latent_subject, measure_latents
from expost.parts.assembly import LatentParts
from expost.parts.weights import Histories
from expost.training.tracking import Tracker
from stage1_vae.data.latents.data import LatentData, LatentStyle
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitReport
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.sampling import Sampling

NUM, DIMS, CLASSES = 600, 4, 3
NOISE = 0.3
"""Standard deviation of the posteriors of `vectors`."""


def vectors(unit: float = 1.0, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Means of three clouds, standard deviations, and labels."""
    draws = np.random.default_rng(0)
    label = np.arange(NUM) % CLASSES
    centres = 4 * draws.normal(size=(CLASSES, DIMS))
    loc = centres[label] + draws.normal(size=(NUM, DIMS))
    std = np.full((NUM, DIMS), NOISE)
    return {"loc": (unit * (loc + 5)).astype("f4"), "std": (unit * std).astype("f4"), "label": label, **more}


def judged(folder: Path, arrays: dict[str, np.ndarray], *words: str) -> Report:
    """What `stage=evaluate` writes of the arrays of an .npz file; also that each picture which it names is there."""
    np.savez(folder / "mine.npz", allow_pickle=False, **arrays)
    root = f"data.root={folder / 'mine.npz'}"
    run = job(folder, "stage=evaluate", "data=latents", root, "logger=csv", "evaluation.num_samples=100", *words)
    pipeline.perform(run)
    (figures,) = (folder / "store" / "evaluation").glob("*/figures.json")
    report = Report.from_json(json.loads(figures.read_text(encoding="utf-8")))
    assert report.judged == "latents" and RECONSTRUCTIONS not in report.rows
    assert "Images were not looked at" in report.verdict
    assert (figures.parent / "curves.png").is_file()
    return report


def pictures(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "store" / "evaluation").glob("*/*.png")}


def nats(report: Report, row: str) -> float:
    value = report.row(row).latent_nll_nats
    assert value is not None
    return value


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of posteriors in units of 1, with labels."""
    folder = tmp_path_factory.mktemp("vectors")
    found = judged(folder, vectors(), "prior=mixture", "prior.num_components=3", "prior.conditional=true")
    assert pictures(folder) == {"curves", "latents", "marginals"}
    return found


def test_every_prior_is_asked_about_the_same_held_out_latents(report: Report) -> None:
    assert list(report.rows) == ["standard_normal", MOMENT_MATCHED, "learned", AGGREGATE, TRAIN_AGAINST_TEST]
    assert report.learned == ["learned"]
    base, moved, learned = (report.row(name) for name in list(report.rows)[:3])
    assert nats(report, "standard_normal") > nats(report, MOMENT_MATCHED) > nats(report, "learned")
    assert base.frechet_distance > moved.frechet_distance > learned.frechet_distance
    assert learned.gain["latent_nll_nats"].value == pytest.approx(learned.latent_nll_nats - base.latent_nll_nats)
    paired = learned.over[MOMENT_MATCHED]["latent_nll_nats"]
    assert paired.value == pytest.approx(learned.latent_nll_nats - moved.latent_nll_nats)
    assert 0 < paired.standard_error < learned.spread["latent_nll_nats"] + moved.spread["latent_nll_nats"]
    assert learned.distortion_nats is None and learned.iwae_nats is None and learned.bits_per_dim is None


def test_the_rate_is_the_cost_less_the_entropy_of_the_posteriors(report: Report) -> None:
    entropy = DIMS * (0.5 * np.log(2 * np.pi * np.e) + np.log(NOISE))
    for name in ("standard_normal", MOMENT_MATCHED, "learned"):
        assert report.row(name).rate_nats == pytest.approx(nats(report, name) - entropy, abs=0.1)
    assert report.surgery.test.priors["learned"].rate_nats.value == pytest.approx(
        report.row("learned").rate_nats, abs=4 * report.row("learned").spread["rate_nats"] + 0.2
    )


def test_samples_of_a_class_are_shown_to_a_classifier_of_latents(report: Report) -> None:
    assert report.classes.samples.value > 0.9 and report.classes.test_images.value > 0.9
    assert report.classes.reconstructions is None and report.row("learned").class_accuracy > 0.9
    assert "a classifier takes" in report.verdict and "test latents" in report.verdict


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_no_figure_but_the_cost_itself_hangs_on_the_unit(report: Report, unit: float, tmp_path: Path) -> None:
    words = ("prior=mixture", "prior.num_components=3", "prior.conditional=true")
    other = judged(tmp_path, vectors(unit), *words)
    one, scaled = report.row("learned"), other.row("learned")
    assert nats(other, "learned") == pytest.approx(nats(report, "learned") + DIMS * np.log(unit), abs=0.1)
    assert scaled.gain.keys() == one.gain.keys()
    assert scaled.over[MOMENT_MATCHED]["latent_nll_nats"].value == pytest.approx(
        one.over[MOMENT_MATCHED]["latent_nll_nats"].value, abs=0.1
    )
    assert scaled.rate_nats == pytest.approx(one.rate_nats, abs=0.1)
    assert scaled.frechet_distance == pytest.approx(one.frechet_distance, abs=0.1)
    assert other.surgery.dimensions.num_active == DIMS and other.surgery.dimensions.num_collapsed is None


def test_points_have_no_rate_and_the_report_says_what_the_file_lacks(tmp_path: Path) -> None:
    arrays = {"loc": vectors()["loc"]}
    arrays["loc"][:, 2] = 0.5
    report = judged(tmp_path, arrays, "prior=mixture", "prior.num_components=3")
    learned = report.row("learned")
    assert learned.rate_nats is None and learned.marginal_kl_nats is None and nats(report, "learned") < 10
    assert "The files do not hold standard deviations" in report.verdict
    assert "3 dimensions (1 more never varies and is left out)" in report.features
    assert any("1 of the 4 places never vary" in note for note in report.notes)
    assert report.row("learned").two_sample_accuracy < 0.75  # it leaves the constant as it is
    assert report.classes is None


def test_a_dimension_that_never_varies_is_in_the_nats_of_no_row(tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    points = vectors()["loc"][:, :3]
    beside = np.concatenate([points, np.full((NUM, 1), 7.5, "f4")], 1)
    found = judged(tmp_path, {"loc": beside}, "prior=gaussian")
    without = judged(tmp_path / "without", {"loc": points}, "prior=gaussian")
    for row in (without.baseline, MOMENT_MATCHED, "learned"):
        assert nats(found, row) == pytest.approx(nats(without, row), abs=1e-4)


def test_repeats_and_sums_are_in_the_nats_of_no_row(tmp_path: Path) -> None:
    for name in ("without", "kept"):
        (tmp_path / name).mkdir()
    points = vectors()["loc"][:, :3]
    beside = np.concatenate([points, points[:, :1], points.sum(1, keepdims=True)], 1)
    found = judged(tmp_path, {"loc": beside}, "prior=gaussian")
    without = judged(tmp_path / "without", {"loc": points}, "prior=gaussian")
    for row in (without.baseline, MOMENT_MATCHED, "learned"):
        assert nats(found, row) == pytest.approx(nats(without, row), abs=1e-4)
    said = "2 of the 5 places are sums or repeats of others: nats are of the others, in every row"
    assert said in found.notes and not any("test latents have other numbers" in note for note in found.notes)
    kept = judged(tmp_path / "kept", {"loc": beside}, "prior=gaussian", "data.dependent=keep")
    assert said not in kept.notes and nats(kept, "learned") < nats(found, "learned") - 5, "as high as its jitter is low"


def test_maps_are_shown_as_they_are(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    arrays = {"loc": (3 + draws.normal(size=(400, 3, 4, 4))).astype("f4")}
    report = judged(tmp_path, arrays, "prior=standard_normal")
    assert pictures(tmp_path) == {"curves", "latents", "marginals", "maps"}
    assert report.row(MOMENT_MATCHED).frechet_distance < report.row("standard_normal").frechet_distance
    assert nats(report, MOMENT_MATCHED) < nats(report, "standard_normal") - 100


def test_codes_are_compared_by_frequencies_and_by_what_they_repeat(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    label = np.arange(NUM) % 2
    codes = np.where(draws.random((NUM, 9)) < 0.8, label[:, None] * 5 + 1, draws.integers(0, 11, (NUM, 9)))
    words = ("prior=bigram", "prior.conditional=true")
    report = judged(tmp_path, {"codes": codes.astype("i4"), "label": label}, *words)
    assert nats(report, "uniform") == pytest.approx(9 * np.log(codes.max() + 1))
    assert nats(report, "unigram") > nats(report, "learned")
    assert report.row("learned").frechet_distance is None and report.row("learned").two_sample_accuracy is None
    assert "No distances" not in report.verdict and "codes" in report.features
    assert 0 < report.row("learned").memorisation < 1 and report.row(AGGREGATE).memorisation > 0.7
    assert any("exactly those of a training latent" in note for note in report.row("learned").notes)
    assert report.classes.samples.value > 0.8
    assert pictures(tmp_path) == {"curves", "codes"}


def test_bits_are_vectors_too(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    bits = draws.random((NUM, 6)) < np.linspace(0.1, 0.9, 6)
    report = judged(tmp_path, {"bits": bits.astype("u1")}, "prior=bigram")
    assert nats(report, "uniform") > nats(report, "learned")
    assert report.row("uniform").frechet_distance > report.row("learned").frechet_distance
    assert "training latents reach" in report.verdict and "reconstructions" not in report.verdict


def test_figures_are_those_of_the_report_about_images(tmp_path: Path) -> None:
    """Of latents of a VAE that are handed over in a file: nats, surgery and discrepancy are the same figures."""
    words = ("debug=fast", "prior=mixture", "prior.num_components=3", "vae.bottleneck.latent_dim=3", "logger=csv")
    pipeline.perform(job(tmp_path / "images", "stage=evaluate", "net.hidden=[8]", "evaluation.num_samples=100", *words))
    (stored,) = (tmp_path / "images" / "store" / "evaluation").glob("*/figures.json")
    images: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
    (latents,) = (tmp_path / "images" / "store" / "latents").iterdir()
    arrays = {
        f"{split}_{name}": np.load(latents / split / f"{name}.npy")
        for split in ("train", "val", "test")
        for name in ("loc", "log_std")
    }
    (tmp_path / "latents").mkdir()
    report = judged(tmp_path / "latents", arrays, "debug=fast", "prior=mixture", "prior.num_components=3")
    priors = images["surgery"]["test"]["priors"]
    for name in ("standard_normal", "learned"):
        ours = report.surgery.test.priors[name]
        for key, one in priors[name].items():
            if key != "note":
                assert getattr(ours, key).value == pytest.approx(one["value"], rel=1e-4), (name, key)
        errors = report.row(name).spread["rate_nats"] + images["rows"][name]["spread"]["rate_nats"]
        assert report.row(name).rate_nats == pytest.approx(images["rows"][name]["rate_nats"], abs=4 * errors)
    assert torch.isfinite(torch.tensor(report.row("learned").frechet_distance))


def test_a_prior_that_diverged_gets_a_report_all_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    latents = [LatentDataset(LatentSpec((2,)), "delta", {"loc": torch.randn(num, 2).numpy()}) for num in (80, 40, 60)]
    train, val, test = latents
    style = LatentStyle("loc", "float32", (2,))
    data = LatentData("mine", train, val, test, fingerprint="f", style=style)
    run = job(tmp_path, "data=latents", "prior=standard_normal", "evaluation.num_samples=50")
    parts = LatentParts(data, data.spec, Broken(data.spec), run.device)
    subject = latent_subject(run, parts, parts.prior, latents)
    history = Histories([], FitReport(1.0, None, None))
    figures = measure_latents(run, subject, history, tmp_path, Tracker()).named_figures()
    assert figures["learned/frechet_distance"] is None and figures["learned/latent_nll_nats"] is None
    assert figures["standard_normal/frechet_distance"] > figures[f"{MOMENT_MATCHED}/frechet_distance"] - 1
    stored = Report.from_json(json.loads((tmp_path / "figures.json").read_text(encoding="utf-8")))
    assert "learned: some of its samples are NaN or infinite" in stored.notes


class Broken(StandardNormal):
    """Neither its draws nor its densities are numbers."""

    def _log_prob(self, z: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        return super()._log_prob(z, context) * torch.nan

    def _sample(self, n: int, context: torch.Tensor | None, how: Sampling) -> torch.Tensor:
        return super()._sample(n, context, how) * torch.nan


def test_test_latents_that_leave_the_constants_are_counted(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(60, 3)).astype("f4")
    points[:, 1] = 2
    other = points[:20].copy()
    other[:7, 1] = 3
    found = judged(tmp_path, {"train_loc": points, "test_loc": other}, "prior=gaussian")
    assert any(note.startswith("7 of 20 test latents have other numbers") for note in found.notes)
    assert found.row("learned").latent_nll_nats is None


def test_test_latents_that_leave_a_sum_are_counted_and_are_in_no_cluster(tmp_path: Path) -> None:
    label = np.arange(120) % 2
    points = np.random.default_rng(0).normal(size=(120, 4)).astype("f4") + 9 * label[:, None].astype("f4")
    points[:, 1], points[:, 3] = 2, points[:, 0] - points[:, 2]
    other = points[:40].copy()
    other[label[:40] == 1, 3] += 1  # one class
    other[0, 1] = 3
    arrays = {"train_loc": points, "test_loc": other, "train_label": label, "test_label": label[:40]}
    found = judged(tmp_path, arrays, "prior=mixture", "prior.num_components=2")
    known = "in places that never vary or are sums or repeats of others"
    assert any(note.startswith(f"21 of 40 test latents have other numbers {known}") for note in found.notes)
    assert found.clusters is not None and found.clusters.num_images == 19
    assert sum(row[1] for row in found.clusters.counts) == 0


def test_a_constant_inside_of_a_channel_is_said_to_have_no_bound(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(60, 2, 3, 3)).astype("f4")
    maps[:, 0, 0, 0] = 5
    found = judged(tmp_path, {"loc": maps}, "prior=standard_normal")
    assert any(note.startswith("1 of 18 numbers never vary and stand in channels that do") for note in found.notes)
