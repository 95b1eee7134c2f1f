"""sweep=optuna_vae: a study in SQLite that the same command continues, with what failed tried again."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from command_line import Result, run_here
from hydra import compose, initialize_config_dir
from sklearn.datasets import load_digits
from sqlalchemy.pool import NullPool

from expost.cli import CONF
from expost.config.schema import Config, validate
from expost.sweeps.study import fingerprint
from stage2_prior.priors.mixture import Mixture

SPACE = ("vae.bottleneck.latent_dim=2,3", "trainer.lr=interval(0.001,0.01)", "vae.objective.beta=1")
FAST = ("prior=gaussian", "debug=fast", "net.hidden=[8]", "logger=csv")
SEARCH = ("sweep=optuna_vae", "data=arrays", "data.root=digits.npy", *FAST, "sweep.num_trials=3", *SPACE)
TWO_AIMS = "sweep.metric=[iwae_nats,seconds]"


def search(place: Path, *words: str) -> Result:
    return run_here(place, *SEARCH, *words)


def images(place: Path, num: int = 300) -> None:
    np.save(place / "digits.npy", (load_digits().images[:num] / 16).astype(np.float32))


def study_of(place: Path) -> Any:
    (file,) = place.glob("runs/sweeps/*.db")
    # Without a pool no connection outlives its use, of which Python 3.13 would complain.
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name=None, storage=storage)


def states(place: Path) -> list[str]:
    return [trial.state.name for trial in study_of(place).trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """The same command three times: where it cannot write, where it can, and when there is nothing left to do."""
    place = tmp_path_factory.mktemp("searched")
    images(place)
    (place / "runs").mkdir()
    (place / "runs/store").touch()
    results = [search(place, TWO_AIMS)]
    (place / "runs/store").unlink()
    # What a sweep that was killed leaves: a trial of which nobody knows the end.
    killed = study_of(place).ask(study_of(place).trials[0].distributions)
    results += [search(place, TWO_AIMS), search(place, TWO_AIMS)]
    assert killed.number == 3
    return place, results


def test_what_failed_is_told_and_tried_again_by_the_same_command(searched: tuple[Path, list[Result]]) -> None:
    place, (first, second, third) = searched
    assert first.code == 2 and [line[:11] for line in first.lines] == ["error: job ", "error: job ", "error: job "]
    assert all("runs/store" in line for line in first.lines)
    assert (second.code, second.err) == (0, "")
    assert "with 0 trials, 4 to try again, up to 3" in second.out
    trials = study_of(place).trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * 4 + ["COMPLETE"] * 3 + ["WAITING"]
    assert [trial.params for trial in trials[4:7]] == [trial.params for trial in trials[:3]]
    assert len({tuple(trial.params.values()) for trial in trials[:3]}) == 3
    assert (third.code, third.err) == (0, "")
    assert "with 3 trials" in third.out and "done in" not in third.out
    assert len(study_of(place).trials) == 8


def test_two_metrics_are_those_of_the_report_and_the_best_are_told(searched: tuple[Path, list[Result]]) -> None:
    place, (_, second, _) = searched
    study = study_of(place)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        report = json.loads((place / trial.user_attrs["run"] / "report.json").read_text(encoding="utf-8"))
        assert trial.values[0] == report["rows"]["gaussian"]["iwae_nats"]
        vae, prior = (
            json.loads(
                (place / "runs/store" / stage / report["provenance"][stage] / "manifest.json").read_text(
                    encoding="utf-8"
                )
            )
            for stage in ("vae", "prior")
        )
        took = sum(facts["finished"] - facts["started"] for facts in (vae, prior))
        assert trial.values[1] == pytest.approx(took) and took > 0
    lines = [line for line in second.out.splitlines() if line.strip().startswith("iwae_nats")]
    assert len(lines) == len(study.best_trials) >= 1
    assert second.out.splitlines()[-1].split()[:1] == ["next"]


def test_another_search_has_another_study_unless_it_is_named(searched: tuple[Path, list[Result]]) -> None:
    place, _ = searched
    (file,) = place.glob("runs/sweeps/*.db")
    named = search(place, TWO_AIMS, f"sweep.study={file.stem}", "likelihood=bernoulli")
    assert named.code == 2 and "searches something else" in named.err and len(named.lines) == 1
    assert "done in" not in named.out


def test_one_metric_in_a_study_of_ones_own_name(tmp_path: Path) -> None:
    images(tmp_path)
    result = search(tmp_path, "sweep.metric=num_parameters", "sweep.num_trials=2", "sweep.study=mine", "seed=0")
    assert (result.code, result.err) == (0, "")
    study = study_of(tmp_path)
    assert study.study_name == "mine" and study.direction.name == "MINIMIZE"
    sizes = [trial.params["vae.bottleneck.latent_dim"] for trial in study.trials]
    assert [trial.value for trial in study.trials] == [{2: 5.0, 3: 9.0}[int(size)] for size in sizes]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("sweep.metric=iwae",), "did you mean 'iwae_nats'?"),
        (("sweep.metric=mixture.iwae_nats",), "no row mixture"),
        (("sweep.metric=null",), "needs sweep.metric=NAME"),
        (("stage=prior",), "choices: all, evaluate, report"),
        (("trainer.lr=tag(log,interval(0,1))",), "trainer.lr"),
        (("sweep.num_trials=0",), "sweep.num_trials=0"),
        (("seed=-1",), "seed=-1"),
        (("trainer=ddp",), "set trainer.devices=1"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_trained(
    words: tuple[str, ...], remedy: str, tmp_path: Path
) -> None:
    images(tmp_path)
    result = search(tmp_path, *words)
    assert result.code == 2 and len(result.lines) == 1 and remedy in result.err
    assert not (tmp_path / "runs").exists()


def test_a_search_without_images_is_one_line(tmp_path: Path) -> None:
    result = search(tmp_path)
    assert result.code == 2 and len(result.lines) == 1 and "digits.npy" in result.err
    assert not (tmp_path / "runs").exists()


def test_other_images_or_another_algorithm_are_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["data=arrays", f"data.root={tmp_path}/digits.npy"]

    def named(*choices: str) -> str:
        space = {
            "prior": optuna.distributions.CategoricalDistribution(choices),
            "trainer.lr": optuna.distributions.FloatDistribution(0.001, 0.01),
        }

        def composed(more: Sequence[str]) -> Config:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return validate(compose("config", overrides=[*words, "sweep.metric=iwae_nats", *more]))

        return fingerprint(space, composed)

    images(tmp_path)
    first, both = named("gaussian"), named("gaussian", "mixture")
    assert len({first, both, named("gaussian", "bigram")}) == 3, "what these latents do not have is no obstacle"
    monkeypatch.setattr(Mixture, "version", Mixture.version + 1)
    assert named("gaussian") == first and named("gaussian", "mixture") != both
    images(tmp_path, num=299)
    assert named("gaussian") != first


def test_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = search(tmp_path)
    assert result.code == 2 and "pip install 'expost[optuna]'" in result.err


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "runs/sweeps").mkdir(parents=True)
    (tmp_path / "runs/sweeps/mine.db").write_bytes(b"no database" * 100)
    result = search(tmp_path, "sweep.study=mine")
    assert result.code == 2 and len(result.lines) == 1 and "mine.db cannot be used" in result.err
