"""Conditional samples judged class by class: the figure against what is planted, the picture, the report."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, keys, report_of, run_here
from exported_model import exported, job, stages_of
from outside.torchscript import script
from PIL import Image

from expost import pipeline
from expost.evaluation.figures import class_rows
from expost.evaluation.images.class_accuracy import ClassRow, class_accuracy
from expost.evaluation.images.features import FeatureNet
from expost.evaluation.sections import Classes, Share
from expost.evaluation.verdict import classes_followed
from expost.measure.feature_nets import load_own_net
from expost.measure.labelled.classes import measure_classes
from expost.measure.subject import ImageSubject
from stage2_prior.wrappers.per_class import PerClass

PER_CLASS = ("prior=mixture", "prior.num_components=2", "prior.conditional=true")
CONDITIONAL = (*SMALL, "trainer.max_epochs=25", *PER_CLASS)


def test_the_mean_over_classes_and_its_error() -> None:
    """A rare class counts as much as a common one; the error is the spread of the figure over repeated samples."""
    labels = torch.tensor([0] * 900 + [2] * 100)
    chances = torch.tensor([0.9] * 900 + [0.5] * 100)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        right = torch.rand(1000, generator=generator) < chances
        found.append(class_accuracy(torch.where(right, labels, 1), labels, torch.tensor([0, 1, 2])))
    first = found[0]
    assert first is not None and first.by_class.keys() == {0, 2} and first.mean.num == 1000
    values = torch.tensor([each.mean.value for each in found if each is not None])
    assert values.mean().item() == pytest.approx(0.7, abs=0.005)
    assert first.mean.standard_error == pytest.approx(values.std().item(), rel=0.15)


def test_only_the_asked_classes_count_and_few_that_are_all_right_are_not_certain() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    found = class_accuracy(labels, labels, torch.tensor([0]))
    assert found is not None and (found.mean.value, found.mean.num) == (1.0, 2) and found.mean.standard_error > 0.1
    assert class_accuracy(labels, labels, torch.tensor([7])) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSubject, FeatureNet]:
    folder = tmp_path_factory.mktemp("trained")
    words = ("debug=fast", "trainer.val_every=5", "trainer.max_epochs=40", "net.hidden=[32]", "logger=csv", *PER_CLASS)
    exported(folder, *words)
    (model, _), run = stages_of(folder, *words), job(folder, *words)
    return model, load_own_net(pipeline.made("classifier", run, model.parts)["classifier"], run.device)


def test_samples_of_the_wrong_class_are_found_out(trained: tuple[ImageSubject, FeatureNet]) -> None:
    """The same densities under other labels: no distance would notice."""
    model, judge = trained
    torch.manual_seed(0)
    right, notes = measure_classes(model, judge, 300, []), list[str]()
    assert right is not None and isinstance(model.prior, PerClass)
    facts = right.facts
    assert facts.test_images is not None and facts.reconstructions is not None
    assert facts.samples.num == 300 and facts.num_a_class == 30 and facts.chance == 0.1
    assert facts.chance + 0.15 < facts.samples.value < facts.test_images.value
    assert abs(facts.samples.value - facts.reconstructions.value) < 0.2
    assert facts.test_images.value > 0.9, "the classifier knows the digits"
    shares = [found.samples for found in facts.by_class if found.samples is not None]
    assert np.mean(shares) == pytest.approx(facts.samples.value) and len(set(shares)) > 3
    priors = list(model.prior.priors)
    model.prior.priors = torch.nn.ModuleList(priors[1:] + priors[:1])
    torch.manual_seed(0)
    wrong = measure_classes(model, judge, 300, notes)
    model.prior.priors = torch.nn.ModuleList(priors)
    assert wrong is not None and not notes
    assert wrong.facts.samples.value < facts.chance + 0.05
    assert wrong.facts.test_images == facts.test_images
    said = classes_followed(wrong.facts, "mixture")
    assert said.startswith("FAILED: samples of mixture do not follow their label")


@pytest.mark.parametrize(("errors", "failed"), [(0.5, True), (1.9, True), (2.1, False)])
def test_what_may_be_chance_has_failed(errors: float, failed: bool) -> None:
    samples = Share(0.1 + errors * 0.02, 0.02, 200)
    said = classes_followed(Classes(20, 0.1, "a classifier", samples, None, None, ()), "mixture")
    assert said.startswith("FAILED") == failed


def test_samples_that_are_not_finite_are_told_and_not_judged(trained: tuple[ImageSubject, FeatureNet]) -> None:
    model, judge = trained
    assert isinstance(model.prior, PerClass)
    broken = model.prior.priors[3]
    means = broken.means.clone()
    broken.means.fill_(math.nan)
    notes: list[str] = []
    assert measure_classes(model, judge, 300, notes) is None
    broken.means.copy_(means)
    assert notes == ["some conditional samples are NaN or infinite, so no class was judged"]


def test_the_picture_has_one_row_a_class(tmp_path: Path) -> None:
    """Every class in its own shade, in its own row; where there are fewer images, white."""
    shades = [0.2, 0.5, 0.8]
    rows = [
        ClassRow(f"class {i}", 0.5, torch.full((10, 1, 8, 8), shade), torch.full((2, 1, 8, 8), 1 - shade))
        for i, shade in enumerate(shades)
    ]
    class_rows(rows, "mixture", tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as opened:
        pixels = np.asarray(opened.convert("L")).astype(int)
    tile, gap, bottom = 40, 2, 20
    for i, shade in enumerate(shades):
        middle = pixels.shape[0] - bottom - (len(shades) - i) * (tile + gap) + gap + tile // 2
        line = pixels[middle]
        wide = [value for value in (round(255 * shade), round(255 * (1 - shade))) if (line == value).sum() >= 2 * tile]
        assert (line == round(255 * shade)).sum() >= (10 if shade != 0.5 else 12) * tile, f"ten samples of class {i}"
        assert wide and ((line == round(255 * (1 - shade))).sum() >= 2 * tile), f"two images of class {i}"


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """Classes are called what the user's folders are called, and priors what his files are."""
    row = ClassRow("$_$", 0.5, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    class_rows([row], "$^$", tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as opened:
        assert opened.size[1] > 40


@pytest.mark.slow
def test_a_conditional_run_reports_its_classes(tmp_path: Path) -> None:
    done = run_here(tmp_path, *CONDITIONAL)
    assert (done.code, done.err) == (0, "")
    report = report_of(tmp_path)
    classes, rows = report["classes"], report["rows"]
    assert [found["label"] for found in classes["by_class"]] == list(range(10))
    assert rows["mixture"]["class_accuracy"] == classes["samples"]["value"]
    assert rows["mixture"]["spread"]["class_accuracy"] == classes["samples"]["standard_error"]
    assert rows["reconstructions"]["class_accuracy"] == classes["reconstructions"]["value"]
    assert rows["standard_normal"]["class_accuracy"] is None and rows["aggregate_draws"]["class_accuracy"] is None
    assert "class accuracy" in done.out and "equally many a class" in done.out
    latest = tmp_path / "runs/latest"
    page = (latest / "report.html").read_text(encoding="utf-8")
    assert "one row a class" in page and "mean of the classes" in page and (latest / "classes.png").is_file()
    again = run_here(tmp_path, *CONDITIONAL, "stage=report")
    assert again.stages("skipped") == ["evaluation"] and report_of(tmp_path)["classes"] == classes
    assert (latest / "classes.png").is_file() and latest.resolve().name != report["provenance"]["run"]
    other = run_here(tmp_path, *CONDITIONAL, "prior.conditional=false")
    assert other.code == 0 and report_of(tmp_path)["classes"] is None and not (latest / "classes.png").exists()
    compared = run_here(tmp_path, *SMALL, "stage=compare")
    assert compared.code == 0
    (table,) = (tmp_path / "runs").glob("*-compare/comparison.csv")
    assert "class_accuracy" in table.read_text(encoding="utf-8").splitlines()[0]
    for stored in (tmp_path / "runs/store/evaluation").glob("*/figures.json"):
        stored.parent.rename(tmp_path / stored.parent.name)  # away: the same command measures once more
    assert run_here(tmp_path, *CONDITIONAL).code == 0
    assert report_of(tmp_path)["classes"] == classes, "the same seed, the same figures"


@pytest.mark.slow
def test_a_net_of_the_users_own_has_no_classes_so_the_classifier_judges(tmp_path: Path) -> None:
    """Distances in the file's features, classes by the data set's own net, trained beside it."""
    script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 16)), tmp_path / "own.pt")
    assert run_here(tmp_path, *CONDITIONAL).code == 0
    expected = report_of(tmp_path)["classes"]
    done = run_here(tmp_path, *CONDITIONAL, "evaluation.features=own.pt")
    assert (done.code, done.err) == (0, "")
    assert len(keys(tmp_path, "features")) == 2
    assert report_of(tmp_path)["classes"] == expected
