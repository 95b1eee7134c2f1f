"""`trainer.compile=auto`: what is chosen, from what, and that a trial of it changes nothing."""

from functools import partial
from pathlib import Path

import pytest
import torch
from command_line import run_here
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler

from expost.forecast import compiling
from expost.forecast.compiling import StepTimes, recall, remember
from expost.parts.assembly import ImageParts

WORDS = ("stage=vae", "net.hidden=[16]", "trainer.max_steps=40", "trainer.val_every=2", "logger=csv")
AUTO = "trainer.compile=auto"
warns = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*litlogger")


def line_of(folder: Path, *words: str) -> str:
    """What a training of stage 1 in `folder` says of compiling."""
    result = run_here(folder, *WORDS, *words)
    assert result.code == 0, result.err
    (line,) = [line for line in result.out.splitlines() if "compil" in line]
    return line


def trained(folder: Path) -> dict[str, torch.Tensor]:
    (place,) = (folder / "runs" / "store" / "vae").glob("*/model.safetensors")
    return load_file(place)


@pytest.mark.parametrize(
    ("times", "steps", "pays"),
    [
        (StepTimes(eager=0.004, compiled=0.003, compiling=20.0), 30_000, True),
        (StepTimes(eager=0.004, compiled=0.003, compiling=20.0), 10_000, False),
        (StepTimes(eager=0.004, compiled=0.0039, compiling=0.1), 10**9, False),
        (StepTimes(eager=0.003, compiled=0.004, compiling=0.1), 10**9, False),
    ],
)
def test_compiling_pays_where_what_it_saves_is_more_than_it_takes(times: StepTimes, steps: int, pays: bool) -> None:
    assert times.pays(steps) == pays


def test_what_takes_no_time_is_not_compiled_and_trained_as_without_a_trial(tmp_path: Path) -> None:
    for folder, words in (("auto", AUTO), ("eager", "trainer.compile=false")):
        (tmp_path / folder).mkdir()
        if words == AUTO:
            assert "not compiled: 40 steps take about" in line_of(tmp_path / folder, words)
        else:
            assert run_here(tmp_path / folder, *WORDS, words).code == 0
    one, other = (trained(tmp_path / folder) for folder in ("auto", "eager"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


@warns
def test_times_are_kept_and_decide_the_next_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler that only traces stands for the one that writes C++, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(compiling, "LITTLE_SECONDS", 0.0)
    monkeypatch.setattr(compiling, "SECONDS_A_ROUND", 0.01)
    first = line_of(tmp_path, AUTO)
    assert "a step takes" in first and "(kept in this store for this machine)" in first
    (place,) = (tmp_path / "runs" / "store" / ".steps").iterdir()
    times = recall(place)
    assert times is not None and all(value > 0 for value in (times.eager, times.compiled, times.compiling))
    remember(place, StepTimes(eager=1.0, compiled=0.5, compiling=2.0))
    counters.clear()
    assert "compiled: a step takes 500 ms compiled, 1e+03 ms not" in (line := line_of(tmp_path, AUTO, "seed=1"))
    assert "(timed before)" in line and "not compiled" not in line
    assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    place.write_text('{"eager": 1.0, "compiled": "fast", "compiling": 2.0}', encoding="utf-8")
    assert recall(place) is None
    assert "(kept in this store for this machine)" in line_of(tmp_path, AUTO, "seed=2")


def test_a_trial_copies_nothing_that_an_objective_was_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture that is placed after a while holds what it is placed by, all images among it."""

    def refuse(parts: ImageParts, memo: object) -> None:
        raise AssertionError("the images are copied")

    monkeypatch.setattr(ImageParts, "__deepcopy__", refuse, raising=False)
    line = line_of(tmp_path, AUTO, "vae=gmvae", "vae.objective.join_after=20")
    assert "not compiled: 40 steps take about" in line


def test_a_machine_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(step: torch.nn.Module, **_: object) -> None:
        cause = InvalidCxxCompiler()
        raise torch._dynamo.exc.BackendCompilerFailed(lambda graph, inputs: graph, cause, None)

    monkeypatch.setattr(compiling, "LITTLE_SECONDS", 0.0)
    monkeypatch.setattr(torch.nn.Module, "compile", refuse)
    assert "not compiled: there is no C++ compiler here" in line_of(tmp_path, AUTO)
    assert not (tmp_path / "runs" / "store" / ".steps").exists()
    assert trained(tmp_path)
