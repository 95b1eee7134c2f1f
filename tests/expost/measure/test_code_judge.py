"""How discrete latents are judged: floors that must be beaten, usage of codebooks, what was seen before."""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import report_of
from whole_run import run_lent

from expost.evaluation.figures import codebook_usage
from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Codebook
from expost.evaluation.verdict import LITTLE_NATS, verdict_lines
from expost.measure.latents import code_counts, dissect
from expost.measure.subject import Subject
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.priors.uniform import Uniform

FAST = ("net.channels=[8,16]", "prior.width=16", "prior.depth=1", "prior.fit.max_epochs=2", "debug=fast", "logger=csv")
CEILINGS = {"reconstructions": 1.0, "aggregate_draws": 1.1, "train_against_test": 0.1}
"""Frechet distances of the rows that no prior can beat."""


def coded(values: np.ndarray) -> LatentDataset:
    spec = LatentSpec((5,), Support.CODES, ((1, 1), (2, 2)), (8, 5))
    return LatentDataset(spec, "codes", {"codes": values.astype(np.uint8)})


def some_codes(num: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.integers(0, 4, (num, 1)), rng.integers(0, 2, (num, 4))], axis=1)


def dissected(train: LatentDataset, test: LatentDataset) -> dict[str, Any]:
    """`expost.measure.latents` on latents alone under uniform codes; what it returns must be strict JSON."""
    uniform = Uniform(train.spec)
    nothing: Any = None
    trained = Subject(nothing, uniform, uniform, train, test, torch.device("cpu"))
    config = SimpleNamespace(evaluation=SimpleNamespace(num_samples=600), seeds=SimpleNamespace(sample=3))
    run: Any = SimpleNamespace(config=config, shows_progress=False, seeded=lambda seed: nullcontext())
    found = dissect(trained, run, "uniform").to_json()
    json.dumps(found, allow_nan=False)
    return found


def report(**over: float) -> Report:
    """A report of codes; `over`: floor -> nats that the transformer costs more than it, each known to 0.1."""
    rows: dict[str, Any] = {
        name: {"frechet_distance": distance, "spread": {"frechet_distance": 0.1}} for name, distance in CEILINGS.items()
    }
    rows |= {"uniform": {"frechet_distance": 10.0, "latent_nll_nats": 40.0}}
    rows |= {floor: {"frechet_distance": 6.0, "latent_nll_nats": 25.0} for floor in over}
    gains = {floor: {"latent_nll_nats": {"value": v, "standard_error": 0.1}} for floor, v in over.items()}
    rows["transformer"] = {"frechet_distance": 2.0, "latent_nll_nats": 20.0, "over": gains}
    stored = {"data": "d", "features": "f", "baseline": "uniform", "counted": list(over), "rows": rows}
    return Report.from_json(stored)


def test_a_prior_that_beats_counting_is_told_by_how_much() -> None:
    asked = report(unigram=-5.0, bigram=-2.0)
    assert asked.learned == ["transformer"]
    (line,) = [line for line in verdict_lines(asked) if "fewer nats" in line]
    assert "20.0% fewer nats than unigram (25.00 to 20.00)" in line and "8.0% fewer nats than bigram" in line
    assert "unigram samples and reconstructions it closes 80.0%" in line


@pytest.mark.parametrize("difference", [1.0, 0.0, -0.1])
def test_a_prior_that_does_not_beat_counting_has_failed(difference: float) -> None:
    """Noise is no win."""
    lines = verdict_lines(report(unigram=-5.0, bigram=difference))
    (line,) = [line for line in lines if line.startswith("FAILED")]
    assert "bigram" in line and "unigram" not in line and "train it longer" in line


def test_a_counted_prior_that_was_chosen_is_the_learned_one() -> None:
    rows = dict.fromkeys(["uniform", "bigram", "unigram"], Row())
    asked = Report("d", "f", baseline="uniform", counted=("bigram",), rows=rows)
    assert asked.learned == ["unigram"]


def test_surgery_of_codes_counts_sequences() -> None:
    shown = np.concatenate([some_codes(99, 1), [[7, 4, 4, 4, 4]]])  # the last is of no training image
    train, test = coded(some_codes(400, 0)), coded(shown)
    found = dissected(train, test)
    rows = [tuple(row) for row in some_codes(400, 0).tolist()]
    entropy = -sum(math.log(rows.count(row) / 400) for row in rows) / 400
    assert found["train"]["mutual_information_nats"]["value"] == pytest.approx(entropy, abs=1e-4)
    uniform = found["train"]["priors"]["uniform"]
    assert uniform["rate_nats"]["value"] == pytest.approx(math.log(8) + 4 * math.log(5), abs=1e-4)
    assert uniform["marginal_kl_nats"]["value"] == pytest.approx(math.log(8) + 4 * math.log(5) - entropy, abs=1e-4)
    codes = found["codes"]
    assert codes["seen_share"] < 1 and codes["seen_share"] == np.mean(
        [tuple(row) in set(rows) for row in shown.tolist()]
    )
    assert [book["used_share"] for book in codes["books"]] == [0.5, 0.4]
    assert codes["books"][0]["counts"] == sorted(np.bincount(some_codes(400, 0)[:, 0], minlength=8).tolist())[::-1]
    assert codes["books"][1]["perplexity"] == pytest.approx(2.0, abs=0.01)
    assert code_counts(train)[1].sum() == 1600
    assert found["dimensions"] is None and not any("dimensions" in note for note in found["notes"])


def test_surgery_of_bits_is_that_of_any_noise() -> None:
    rng = np.random.default_rng(0)
    train, test = (
        LatentDataset(LatentSpec((6,), Support.BITS), "bits", {"logits": 3 * rng.standard_normal((num, 6), np.float32)})
        for num in (2000, 500)
    )
    found = dissected(train, test)
    for split in ("train", "test"):
        under = found[split]["priors"]["uniform"]
        total = found[split]["mutual_information_nats"]["value"] + under["marginal_kl_nats"]["value"]
        assert under["rate_nats"]["value"] == pytest.approx(total)
        assert under["cross_entropy_nats"]["value"] == pytest.approx(6 * math.log(2), abs=1e-4)
    assert found["test"]["priors"]["training_aggregate"]["rate_nats"]["value"] > 0
    assert found["dimensions"]["num_active"] == 6 and found["two_sample"]["uniform"] is not None


def test_the_picture_of_usage_shows_every_codebook(tmp_path: Path) -> None:
    books = [
        Codebook((2, 2), num_codes=4, used_share=0.75, perplexity=2.2, counts=(5, 3, 1, 0)),
        Codebook((4, 4), num_codes=2, used_share=1.0, perplexity=2.0, counts=(9, 8)),
    ]
    history = [
        {"epoch": e, **{f"{n}_codes_used": 0.5, f"{n}_code_perplexity": 2.0}} for e in (0, 1) for n in ("top", "bottom")
    ]
    codebook_usage(books, history, tmp_path / "codes.png")
    codebook_usage(books, [], tmp_path / "untrained.png")
    sizes = [(tmp_path / f"{name}.png").stat().st_size for name in ("codes", "untrained")]
    assert sizes[0] > sizes[1] > 1000


@pytest.mark.parametrize("vae", ["vq2", "bernoulli"])
def test_one_switch_makes_a_whole_run(vae: str, tmp_path: Path) -> None:
    words = FAST if vae != "bernoulli" else FAST[1:]
    result = run_lent(tmp_path, f"vae={vae}", *words)
    assert result.code == 0, result.err
    stored = report_of(tmp_path)
    assert list(stored["rows"])[:4] == ["uniform", "unigram", "bigram", "transformer"]
    assert stored["baseline"] == "uniform" and stored["counted"] == ["unigram", "bigram"]
    for name in ("uniform", "unigram", "bigram", "transformer"):
        row = stored["rows"][name]
        assert row["elbo_nats"] == pytest.approx(row["distortion_nats"] + row["rate_nats"], rel=1e-4)
        pixels = 64 * math.log(2)
        assert row["bits_per_dim"] == pytest.approx(row["iwae_nats"] / pixels) and row["frechet_distance"] > 0
    assert stored["rows"]["unigram"]["latent_nll_nats"] < stored["rows"]["uniform"]["latent_nll_nats"]
    # A codebook of so few steps may collapse, which hangs on the processor's rounding; then that is what must be said.
    verdict = " ".join(stored["verdict_lines"])
    is_empty = min(stored["rows"][name]["latent_nll_nats"] for name in ("unigram", "bigram")) < LITTLE_NATS
    assert ("counting codes" in verdict or "fewer nats" in verdict) != is_empty
    assert ("There is nothing to win for the prior transformer" in verdict) == is_empty
    assert (tmp_path / "runs/latest/codes.png").is_file() == (vae == "vq2")
    history = json.loads(next((tmp_path / "runs/store/vae").glob("*/history.json")).read_text(encoding="utf-8"))
    assert ("top_codes_used" in history[-1]) == (vae == "vq2")
    assert SimpleNamespace(**stored["surgery"]).codes is None or len(stored["surgery"]["codes"]["books"]) == 2
    assert torch.isfinite(torch.tensor(stored["rows"]["transformer"]["gain"]["rate_nats"]["value"]))
