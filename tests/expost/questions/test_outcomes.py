"""What is made of outcomes: means and paired differences over seeds; each question's words and picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.questions import HEAD, ORDER, sections_of
from expost.config.build import build
from expost.config.defaults import read_conf
from expost.evaluation.sections import Estimate
from expost.questions.inquiry import Inquiry, Outcome, Outcomes, Variant, spelled
from expost.questions.matched import BESIDE
from expost.questions.quilt import Drawn

NAMES = sorted(path.stem for path in Path("conf/experiment/questions").glob("*.yaml"))


def pairs() -> Outcomes:
    values = {"a": [1.0, 2.0, 3.0], "b": [1.5, 2.5, 3.6]}
    return Outcomes([Outcome(name, seed, {"x": x}) for name, xs in values.items() for seed, x in enumerate(xs)])


def test_differences_are_paired_by_seed() -> None:
    outcomes = pairs()
    assert outcomes.variants == ["a", "b"] and outcomes.values("b", "x") == [1.5, 2.5, 3.6]
    mean = outcomes.estimate("a", "x")
    assert mean.value == 2.0 and mean.standard_error == pytest.approx(1 / 3**0.5)
    found = outcomes.difference("b", "a", "x")
    assert found.value == pytest.approx(1.6 / 3) and found.standard_error == pytest.approx(
        np.std([0.5, 0.5, 0.6]) / 2**0.5
    )
    assert outcomes.differ("b", "a", "x"), "half a unit, give or take a tenth"
    assert outcomes.differ("a", "a", "x") is False
    assert "inside the noise" in outcomes.noise("a", "a", "x") and not outcomes.noise("b", "a", "x")


def test_the_best_of_many_is_told_from_another_by_more_than_one_of_two() -> None:
    outcomes = pairs()
    assert outcomes.differ("b", "a", "x", 1) and outcomes.differ("b", "a", "x", 20) is False
    values = {"a": [1.0, 1.1, 1.2], "b": [1.3, 1.1, 1.1], "c": [5.0, 5.1, 5.3]}
    outcomes = Outcomes([Outcome(name, seed, {"x": x}) for name, xs in values.items() for seed, x in enumerate(xs)])
    assert outcomes.as_good_as("a", outcomes.variants, "x") == " (inside the noise as good: b)"
    assert outcomes.as_good_as("a", ["a", "c"], "x") == ""
    assert Outcomes([run for run in outcomes.all if not run.seed]).as_good_as("a", outcomes.variants, "x") == ""


def answered(name: str, figures: dict[str, dict[str, list[float]]], **settings: Any) -> str:
    """The first sentence of a question about `figures`: variant -> figure -> of each seed."""
    section = read_conf(f"experiment/questions/{name}.yaml")["question"]
    (num,) = {len(values) for of_variant in figures.values() for values in of_variant.values()}
    inquiry = build("question", {**section, **settings, "num_seeds": num})
    outcomes = [
        Outcome(variant.name, seed, {key: values[seed] for key, values in figures[variant.name].items()})
        for variant in inquiry.variants()
        for seed in range(num)
    ]
    return inquiry.conclude(Outcomes(outcomes))[0]


@pytest.mark.parametrize(
    ("kl", "starts"),
    [
        (
            [0.90, 1.60, 0.40],
            "Not seen here: the largest rise of KL(q(z|x) || p(z|x)) while log p(x) rises, from step 1",
        ),
        ([0.90, 0.96, 0.84], "Yes: from step 10 to step 100 log p(x) rises by 3.97 ± 0.03 nats while KL"),
        ([0.10, 0.16, 0.04], "Not seen here: wherever log p(x) rises, q(z|x) comes nearer to p(z|x)."),
    ],
)
def test_a_rise_inside_the_noise_is_no_rise(kl: list[float], starts: str) -> None:
    figures = {
        "step 1": {"log_px": [-9.0] * 3, "kl": [2.0] * 3},
        "step 10": {"log_px": [-5.0, -5.1, -4.9], "kl": [0.34, 0.40, 0.28]},
        "step 100": {"log_px": [-1.0, -1.2, -0.9], "kl": kl},
    }
    assert answered("training", figures, steps=[1, 10, 100]).startswith(starts)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ([0.07, 0.08, 0.06], [0.31, 0.33, 0.32], "Here yes, "),
        ([0.31, 0.33, 0.32], [0.07, 0.08, 0.06], "Here more would help, "),
        ([0.31, 0.55, 0.10], [0.07, 0.08, 0.06], "Not to be told here, "),
    ],
)
def test_one_sample_is_enough_only_where_seeds_agree(one: list[float], other: list[float], verdict: str) -> None:
    silly = {"silly_reparameterised": [0.25] * 3, "silly_score": [7.0] * 3, "score": [300.0] * 3, "size": [64.0] * 3}
    figures = {f"after {n} epochs": {"reparameterised": one, "batch": other, **silly} for n in (2, 60)}
    words = answered("gradients", figures)
    assert words.startswith(verdict) and "a batch of 64" in words and "encoder" in words
    assert ("inside the noise" in words) == (verdict == "Not to be told here, ")


def test_one_seed_says_nothing_of_noise() -> None:
    outcomes = Outcomes([Outcome("a", 0, {"x": 1.0}), Outcome("b", 0, {"x": 100.0})])
    assert outcomes.difference("b", "a", "x") == Estimate(99.0, None)
    assert outcomes.differ("b", "a", "x") is None and "not known" in outcomes.noise("b", "a", "x")


def test_figures_are_spelled_with_their_error() -> None:
    assert spelled(Estimate(1234.567, 0.5)) == "1,234.57 ± 0.50"
    assert spelled(Estimate(0.5, None), 1, sign=True) == "+0.5"


def material(name: str, inquiry: Inquiry, variant: Variant) -> Any:
    """What the picture of a question takes of a run."""
    torch.manual_seed(0)
    if name == "quilt":
        images = torch.rand(60, 1, 8, 8)
        return Drawn(torch.randn(300, 2), torch.arange(300) % 10, images, images) if "2 dim" in variant.name else None
    return {
        "absorbed": (np.arange(1, 30), np.linspace(100.0, 60.0, 29)),
        "gradients": {"reparameterised": [0.3, 0.1, 0.02], "score": [300.0, 80.0, 20.0]},
        "ladder": "mixture" if variant.name == "auto" else None,
        "scale": (0.9, 2.0),
    }.get(name)


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_each_question_has_words_and_a_picture(name: str, num_seeds: int, tmp_path: Path) -> None:
    inquiry = build("question", {**read_conf(f"experiment/questions/{name}.yaml")["question"], "num_seeds": num_seeds})
    assert isinstance(inquiry, Inquiry)
    variants = inquiry.variants()
    assert len({variant.name for variant in variants}) == len(variants) >= 2
    assert len({variant.words for variant in variants}) == len(variants)
    rng = np.random.default_rng(0)
    outcomes = Outcomes(
        [
            Outcome(
                variant.name,
                seed,
                {key: float(rng.uniform(1, 3)) for key in (*inquiry.columns, *BESIDE)},
                material(name, inquiry, variant),
            )
            for variant in variants
            for seed in range(num_seeds)
        ]
    )
    sentences = inquiry.conclude(outcomes)
    assert len(sentences) >= 2 and all(sentence.endswith(".") and "nan" not in sentence for sentence in sentences)
    inquiry.draw(outcomes, tmp_path / "answer.png")
    with Image.open(tmp_path / "answer.png") as picture:
        assert picture.width > 600 and picture.height > 300
    assert inquiry.asks.endswith("?")


def test_sections_of_the_page_are_found_again_without_its_end() -> None:
    page = Path("docs/questions.md").read_text(encoding="utf-8")
    sections = sections_of(page)
    assert list(sections) == list(range(1, len(ORDER) + 1))
    assert all(f"experiment=questions/{name}" in sections[place] for place, name in enumerate(ORDER, 1))
    assert page == "\n## ".join([HEAD, *sections.values()]) + page[page.rindex("- ") :]
    assert sections_of("") == {}
