"""The statements of the questions, in their direction, over seeds: real runs, made small."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Answer:
    """What a command answered: its runs, by variant."""

    def __init__(self, folder: Path, name: str, *words: str) -> None:
        done = run_here(folder, f"experiment=questions/{name}", "evaluation.importance_samples=1", *words)
        assert done.code == 0, done.err
        text = (folder / "runs" / "latest" / "answer.json").read_text(encoding="utf-8")
        self.facts: dict[str, Any] = json.loads(text)

    def values(self, variant: str, figure: str) -> list[float]:
        found = [run[figure] for run in self.facts["runs"] if run["variant"] == variant]
        assert found, variant
        return found

    def pairs(self, first: str, second: str, variant: str) -> list[tuple[float, float]]:
        """Two figures of `variant`, for each seed."""
        return list(zip(self.values(variant, first), self.values(variant, second), strict=True))

    def excess(self, variant: str) -> list[float]:
        """KL(q(z) || N(0, I)) beyond that of an exact match at the same rate, for each seed, nats."""
        return [kl - match for kl, match in self.pairs("marginal_kl", "matched_kl", variant)]

    def always(self, variant: str, above: str, figure: str) -> bool:
        """Whether `figure` of `variant` is larger than that of `above`, for each seed."""
        pairs = zip(self.values(variant, figure), self.values(above, figure), strict=True)
        return all(own > other for own, other in pairs)


def test_q_of_z_is_told_from_normal_by_what_each_size_can_show(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "quilt", "trainer.max_epochs=60")
    assert min(answer.excess("2 dimensions")) > 0
    assert answer.always("16 dimensions", "2 dimensions", "matched_kl")  # a ceiling, and not what q(z) is like
    assert min(answer.values("16 dimensions", "accuracy")) > 60
    distances = answer.pairs("baseline_distance", "own_distance", "16 dimensions")
    assert all(normal > own for normal, own in distances)


def test_size_moves_the_estimate_and_an_exact_match_moves_with_it(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "size", "question.depths=[1,2]", "question.dims=[2,8]", "trainer.max_epochs=60")
    for depth in (1, 2):
        flat, wide = f"{depth} hidden, 2 dimensions", f"{depth} hidden, 8 dimensions"
        assert answer.always(wide, flat, "marginal_kl") and answer.always(wide, flat, "matched_kl")
        assert min(answer.excess(flat)) > 0
    assert answer.always("1 hidden, 8 dimensions", "2 hidden, 8 dimensions", "marginal_kl")
    assert answer.always("1 hidden, 8 dimensions", "2 hidden, 8 dimensions", "matched_kl")
    assert max(map(abs, answer.excess("1 hidden, 8 dimensions"))) < 0.1 * min(
        answer.values("1 hidden, 8 dimensions", "marginal_kl")
    )


def test_a_wider_ball_costs_nats_and_a_mixture_saves_them(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "ladder", "trainer.max_epochs=60", "question.num_seeds=2")
    assert answer.always("N(0, 2I)", "N(0, I)", "rate")
    assert answer.always("N(0, I)", "mixture of 10", "rate") and answer.always("N(0, I)", "mixture of 10", "distance")
    assert answer.always("N(0, I)", "moment-matched Gaussian", "rate")
    assert answer.always("moment-matched Gaussian", "mixture of 10", "rate")
    assert answer.always("mixture of 10", "mixture of 50", "rate")


def test_absorbed_moments_learn_faster_than_learned_ones(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "absorbed", "trainer.max_epochs=12")
    assert answer.always("moments learned", "fixed N(0, I)", "early")
    assert answer.always("fixed N(0, I)", "moments absorbed", "early")


def test_log_p_of_x_may_rise_while_the_posterior_gets_worse(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "training", "question.steps=[1,300,1000,3000]")
    assert answer.facts["sentences"][0].startswith("Yes")
    assert answer.always("step 3,000", "step 1,000", "log_px") and answer.always("step 3,000", "step 1,000", "kl")


def test_the_score_function_is_far_noisier(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "gradients", "question.epochs=[2,20]", "question.num_repeats=24")
    for variant in ("after 2 epochs", "after 20 epochs"):
        assert all(score > 100 * through for score, through in answer.pairs("score", "reparameterised", variant))
        assert all(through > batch for through, batch in answer.pairs("reparameterised", "batch", variant))
    assert min(answer.values("after 2 epochs", "silly_score")) > 10 * max(
        answer.values("after 2 epochs", "silly_reparameterised")
    )


def test_bounds_climb_to_a_known_density(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "perfect", "question.dims=[2,8]", "trainer.max_epochs=100")
    for run in answer.facts["runs"]:
        assert run["elbo"] < run["iwae"] < run["exact"] + 0.1 and run["exact"] - run["iwae"] < 0.2
        assert run["vae_elbo"] < run["vae"]


def test_a_heavy_weight_empties_the_code(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "collapse", "question.warmup_steps=200", "trainer.max_epochs=60", "question.num_seeds=2")
    for side in ("8 x 8", "16 x 16"):
        assert answer.always(f"beta 1; {side}", f"beta 20; {side}", "rate")
        assert answer.always(f"beta 20, free nats; {side}", f"beta 20; {side}", "rate")
    assert max(answer.values("beta 20, warmed up; 8 x 8", "rate")) < 0.1
    assert answer.always("beta 20, warmed up; 16 x 16", "beta 20; 16 x 16", "rate")
    assert answer.always("beta 20; 16 x 16", "beta 20; 8 x 8", "rate")


def test_temperature_trades_recall_for_precision(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "scale", "question.stds=[0.6,1.0,1.25,1.5]", "trainer.max_epochs=60")
    assert answer.always("s = 0.6", "s = 1.5", "precision") and answer.always("s = 1.5", "s = 0.6", "recall")
    assert answer.always("s = 1", "s = 1.25", "distance") and answer.always("s = 1.25", "s = 1", "rate")
    assert answer.always("s = 0.6", "s = 1", "rate") and answer.always("s = 1.5", "s = 1", "rate")


def test_counts_buy_much_of_what_a_transformer_buys_and_not_all(tmp_path: Path) -> None:
    answer = Answer(tmp_path, "codes", "trainer.max_epochs=30", "question.num_seeds=2")
    assert min(answer.values("counts of each place", "saved")) > 0.5
    assert answer.always("transformer", "counts of each place", "saved")
    assert answer.always("counts of each place", "transformer", "distance")
