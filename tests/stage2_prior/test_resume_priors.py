"""Stage 2 that was stopped continues and ends in the same bits: the gradient loop, and loops of a prior's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopped_run import NAME, KilledError, StopsAt, lent, training_states
from torch import Tensor
from training_run import equal

from expost.store.manifest import file_sha256
from expost.store.training_states import TrainingStates, states_in
from expost.training.trainer import LoopStates
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.em.gaussian import Components, EMState
from stage2_prior.em.restarts import Search, pack
from stage2_prior.fitting import FitReport, FitStates, Stopwatch
from stage2_prior.flows.flow import Flow
from stage2_prior.prior import Prior
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.standardize import Standardized

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")
SPEC = LatentSpec((3,))


def posteriors(num: int, seed: int) -> LatentDataset:
    draw = np.random.default_rng(seed)
    loc, log_std = draw.normal(size=(2, num, 3)).astype(np.float32)
    labels = draw.integers(0, 3, num)
    return LatentDataset(SPEC, "diagonal_normal", {"loc": loc + 2, "log_std": log_std - 2}, labels)


TRAIN, VAL = posteriors(600, 0), posteriors(150, 1)


def autoregressive() -> Prior:
    torch.manual_seed(0)
    return Standardized(Autoregressive(SPEC, hidden=(16, 16), num_components=3, dropout=0.2))


def state(prior: Prior) -> dict[str, Tensor]:
    return prior.state_dict()


def same(one: FitReport, other: FitReport) -> bool:
    return replace(one, seconds=0) == replace(other, seconds=0)


@pytest.mark.parametrize(
    "asked",
    [{"max_epochs": 6}, {"max_epochs": 40, "patience": 4, "learning_rate": 0.05}, {"average": 0, "max_epochs": 5}],
    ids=["plain", "patience", "no_average"],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_gradient_loop(asked: dict[str, Any], precision: str, tmp_path: Path) -> None:
    asked = {**asked, "precision": precision}
    whole = autoregressive()
    expected = whole.fit(TRAIN, VAL, lent(**asked))
    for epoch in (1, 3):
        with pytest.raises(KilledError):
            autoregressive().fit(TRAIN, VAL, lent(training_states(tmp_path), epoch, **asked))
        assert [kept.done for kept in states_in(tmp_path / NAME)] == [epoch]
    said: list[str] = []
    prior = autoregressive()
    torch.rand(7)
    report = prior.fit(TRAIN, VAL, lent(training_states(tmp_path, said), **asked))
    assert len(said) == 1 and said[0].startswith("continues after epoch 3 of ")
    assert same(report, expected) and report.curve[0]["epoch"] == 0
    assert equal(state(prior), state(whole))


def test_a_flow_on_a_fitted_base(tmp_path: Path) -> None:
    """The base is fitted again, and the layers go on."""

    def flow() -> Prior:
        torch.manual_seed(0)
        return Standardized(Flow(SPEC, num_layers=2, hidden=(16,), base=Mixture(SPEC, num_components=4)))

    asked: dict[str, Any] = {"max_epochs": 5, "precision": "32-true"}
    whole = flow()
    expected = whole.fit(TRAIN, VAL, lent(**asked))
    with pytest.raises(KilledError):
        flow().fit(TRAIN, VAL, lent(training_states(tmp_path), 2, **asked))
    prior = flow()
    report = prior.fit(TRAIN, VAL, lent(training_states(tmp_path), **asked))
    assert same(report, expected) and equal(state(prior), state(whole))


def test_seconds_are_those_of_all_attempts(tmp_path: Path) -> None:
    asked = {"max_epochs": 3, "max_seconds": 100.0}
    with pytest.raises(KilledError):
        autoregressive().fit(TRAIN, VAL, lent(training_states(tmp_path), 2, **asked))
    (kept,) = states_in(tmp_path / NAME)
    content = torch.load(kept.path, weights_only=True)
    assert 0 < content["seconds"] < 60
    content["seconds"] = 99.9999
    torch.save(content, kept.path)
    kept.path.rename(kept.path.with_name(f"epoch-2-of-3.{file_sha256(kept.path)}.ckpt"))
    report = autoregressive().fit(TRAIN, VAL, lent(training_states(tmp_path), **asked))  # type: ignore[arg-type]
    assert report.seconds > 99.9999 and len(report.curve) == 3
    assert report.notes == ["stopped after epoch 3 at the limit of 100 seconds"]


@pytest.mark.parametrize("batch_size", ["all", 128])
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_mixtures(batch_size: int | str, covariance: str, tmp_path: Path) -> None:
    """Two starts each; stopped in the first, in the second, and in between."""
    settings: dict[str, Any] = {"covariance": covariance, "batch_size": batch_size, "num_restarts": 2, "max_iter": 6}

    def fitted(kept: Any) -> tuple[Prior, FitReport, list[Any]]:
        prior, logged = Mixture(SPEC, num_components=30, tol=0, pseudo_counts=0.5, **settings), list[Any]()
        return prior, prior.fit(TRAIN, VAL, replace(lent(), log=lambda *pair: logged.append(pair), states=kept)), logged

    whole, expected, log = fitted(FitStates())
    iterations = 7 if batch_size == "all" else 6
    for num in (2, iterations - 2, 3):
        with pytest.raises(KilledError):
            fitted(StopsAt(LoopStates(training_states(tmp_path)), num))
    said: list[str] = []
    prior, report, relogged = fitted(LoopStates(training_states(tmp_path, said)))
    assert said == [f"continues after iteration {iterations + 3} of {2 * iterations}"]
    assert same(report, expected) and equal(prior.state_dict(), whole.state_dict())
    assert relogged == log, "the whole curves of both starts"


@pytest.mark.parametrize("batch_size", ["all", 128])
def test_seconds_of_a_mixture_are_those_of_all_attempts(batch_size: int | str, tmp_path: Path) -> None:
    def fitted(kept: Any) -> FitReport:
        mixture = Mixture(SPEC, num_components=3, tol=0, max_iter=4, batch_size=batch_size)  # type: ignore[arg-type]
        return mixture.fit(TRAIN, VAL, replace(lent(), states=kept))

    for stops in (1, 2):
        with pytest.raises(KilledError):
            fitted(StopsAt(LoopStates(training_states(tmp_path)), stops))
        tensors, facts = LoopStates(training_states(tmp_path)).load() or ({}, {})
        assert 100 * (stops - 1) < facts["seconds"] < 100 * (stops - 1) + 50
        LoopStates(training_states(tmp_path)).save(stops, 5, tensors, facts | {"seconds": 100.0})
    assert 100 < fitted(LoopStates(training_states(tmp_path))).seconds < 150


def test_states_come_back_to_the_last_bit(tmp_path: Path) -> None:
    tensors = {
        "float64": torch.randn(3, 2, dtype=torch.float64),
        "bits": torch.tensor([True, False]),
        "bytes": torch.Generator().get_state(),
        "view": torch.arange(6).view(2, 3).T,
        "empty": torch.zeros(0, 4),
    }
    facts = {"curve": [0.1 + 0.2, 1e-300, -float("inf")], "count": 3, "none": None}
    LoopStates(training_states(tmp_path)).save(4, 9, tensors, facts)
    said: list[str] = []
    found = LoopStates(training_states(tmp_path, said)).load()
    assert found is not None and said == ["continues after iteration 4 of 9"]
    assert found[1] == facts and found[0].keys() == tensors.keys()
    assert all(
        torch.equal(found[0][name], value) and found[0][name].dtype == value.dtype for name, value in tensors.items()
    )


def test_a_search_goes_on_where_its_states_live(tmp_path: Path) -> None:
    """What is kept lies on the CPU and the fit perhaps not; meta stands for any other device."""
    tensors: dict[str, Tensor] = {"generator": torch.Generator().get_state()}
    begun = EMState.begin(Components(torch.zeros(2), torch.zeros(2, 3), torch.ones(2, 3)))
    facts = {"number": 0, "told": [], "seconds": 5.0, "state": pack(begun, "state", tensors), "best": None}
    LoopStates(training_states(tmp_path)).save(1, 9, tensors, facts)
    search = Search(
        kind=EMState,
        num=1,
        iterations=9,
        start=lambda: begun,
        climb=lambda state, heard: state,
        score=lambda state: 0.0,
        done=lambda state: state.iteration,
        figures=lambda state: [],
        run=replace(lent(), device=torch.device("meta"), states=LoopStates(training_states(tmp_path))),
        generator=torch.Generator(),
        watch=Stopwatch(),
    )
    found = search.find_best()
    parts = (found.current.log_weights, found.current.means, found.current.scale, found.may_move)
    assert {part.device.type for part in parts} == {"meta"}


@pytest.mark.parametrize("harm", ["flipped", "foreign", "no_safetensors"])
def test_a_state_that_is_not_as_it_was_kept_is_put_aside(harm: str, tmp_path: Path) -> None:
    LoopStates(training_states(tmp_path)).save(4, 9, {"x": torch.ones(3)}, {})
    (kept,) = states_in(tmp_path / NAME)
    if harm == "flipped":
        kept.path.write_bytes(kept.path.read_bytes()[:-1] + b"x")
    elif harm == "foreign":
        (tmp_path / NAME).rename(tmp_path / "elsewhere")
        LoopStates(TrainingStates(tmp_path / "prior-other", tmp_path / "quarantine", 1e9)).save(5, 9, {}, {})
        (tmp_path / "prior-other").rename(tmp_path / NAME)
    else:
        place = training_states(tmp_path)
        place.keep("iteration", 5, 9, "safetensors", lambda path: path.write_bytes(b"\xff" * 64) and None)
    said: list[str] = []
    assert LoopStates(training_states(tmp_path, said)).load() is None
    assert len(said) == 1 and "training starts over" in said[0]
    assert len(list(tmp_path.glob("quarantine/*/*"))) == 1 and not states_in(tmp_path / NAME)
