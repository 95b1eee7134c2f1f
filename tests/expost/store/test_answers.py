"""Answers that were written down: given again for the same question alone, and only while they are true."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, STAGES, composed, run_here

from expost import pipeline
from expost.base.command import Command
from expost.config import sources
from expost.config.schema import validate
from expost.store import answers
from expost.store.answers import Answer, Question, library_sha256
from expost.store.artifacts import Store

COMMAND = Command(choices={"data": "digits", "prior": "mixture", "logger": "csv"}, overrides=("seed=1", "logger=csv"))


def asked(*words: str, command: Command = COMMAND) -> Question | None:
    return Question.of(validate(composed(*words)), command, Store(Path("store")))


def facts(*words: str, command: Command = COMMAND) -> dict[str, Any]:
    question = asked(*words, command=command)
    assert question is not None
    return question.facts


def answer_to(question: Question) -> Answer:
    keys = {stage: f"{number:020x}" for number, stage in enumerate(STAGES)}
    config = question.config
    return Answer(keys, [("data", "words")], config.prior, config.evaluation, {"vae": "0"}, {"low": 0.5}, {"a": "b"})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Files of images that have been as they are for long enough."""
    folder = tmp_path / "images" / "inner"
    folder.mkdir(parents=True)
    for name in ("a.npy", "b.npy"):
        np.save(folder / name, np.zeros(3))
    return folder.parent


# --- what the question holds


@pytest.mark.parametrize("words", ["seed=2", "prior.num_components=3", "trainer.lr=0.1", "evaluation.num_samples=99"])
def test_another_configuration_is_another_question(words: str) -> None:
    assert facts(words) != facts()


@pytest.mark.parametrize("words", ["stage=report", "paths.root=elsewhere", "logger.project=x", "upstream=require"])
def test_what_changes_no_figure_is_the_same_question(words: str) -> None:
    assert facts(words) == facts()
    others = replace(COMMAND, choices={**COMMAND.choices, "logger": "wandb"}, overrides=(words, "seed=1"))
    assert facts(words, command=others) == facts()


@pytest.mark.parametrize(
    "change",
    [{"choices": {"data": "digits", "prior": "gaussian"}}, {"overrides": ("seed=1", "prior.num_components=10")}],
)
def test_names_and_words_of_the_report_come_from_choices_and_overrides(change: dict[str, Any]) -> None:
    assert facts(command=replace(COMMAND, **change)) != facts()


@pytest.mark.parametrize(
    "words",
    [
        ("stage=vae",),
        ("trainer.devices=2",),
        ("evaluation.features=net.pt",),
        ("data=mnist", "data.root=nowhere"),
        ("prior._target_=test_answers.Own",),
        ("vae.bottleneck._target_=stage1_vae.own.Own",),
    ],
)
def test_what_may_depend_on_something_else_is_no_question(words: tuple[str, ...]) -> None:
    assert asked(*words) is None


def touched(folder: Path) -> None:
    (folder / "inner/a.npy").touch()


def replaced(folder: Path) -> None:
    """By another file of the same size and times."""
    old, new = folder / "inner/a.npy", folder / "inner/new"
    times = old.stat()
    new.write_bytes(old.read_bytes()[::-1])
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(old)


def written_into(folder: Path) -> None:
    """Without a trace in its size or in the time that can be set."""
    path = folder / "inner/a.npy"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def added(folder: Path) -> None:
    (folder / "inner/c.npy").write_bytes(b"")


def removed(folder: Path) -> None:
    (folder / "inner/b.npy").unlink()


def renamed(folder: Path) -> None:
    (folder / "inner/b.npy").rename(folder / "inner/c.npy")


def moved_folder(folder: Path) -> None:
    (folder / "inner").rename(folder / "outer")


@pytest.mark.parametrize("change", [touched, replaced, written_into, added, removed, renamed, moved_folder])
def test_a_change_of_the_files_is_noticed(images: Path, change: Callable[[Path], None]) -> None:
    words = ("data=image_folder", f"data.root={images}")
    before = facts(*words)
    assert facts(*words) == before
    change(images)
    assert facts(*words) != before


def test_one_file_behind_a_link_is_known_by_what_it_leads_to(images: Path) -> None:
    link = images / "link.npy"
    link.symlink_to("inner/a.npy")
    words = ("data=arrays", f"data.root={link}")
    before = facts(*words)
    link.unlink()
    link.symlink_to("inner/b.npy")
    assert facts(*words) != before


def test_a_link_that_leads_back_ends_somewhere(images: Path) -> None:
    (images / "inner/back").symlink_to(images)
    assert asked("data=image_folder", f"data.root={images}") is not None


def test_too_many_files_are_not_looked_at(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_FILES", 2)
    assert asked("data=image_folder", f"data.root={images}") is None


def test_a_package_of_another_version_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    before = answers.installed.__wrapped__()
    (tmp_path / "torch-1.0.dist-info").rename(tmp_path / "torch-1.1.dist-info")
    assert answers.installed.__wrapped__() != before and sys.version in before


def test_which_accelerators_may_be_used_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers.machine.__wrapped__()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert answers.machine.__wrapped__() != before
    assert not Path("/proc/cpuinfo").is_file() or len(before["processor"][1]) > 20


def test_an_edited_source_is_noticed_and_one_that_may_need_others_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for top in sources.PROJECT:
        shutil.copytree(sources.ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (sources, answers):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(answers, "CONF", tmp_path / "expost/conf")
    before = library_sha256.__wrapped__()
    assert before is not None and before == library_sha256()
    for name in ("expost/pipeline.py", "stage1_vae/vae.py", "expost/conf/prior/mixture.yaml"):
        path = tmp_path / name
        text = path.read_bytes()
        path.write_bytes(text + b"\n# edited\n")
        assert library_sha256.__wrapped__() not in (before, None)
        path.write_bytes(text)
    (tmp_path / "stage2_prior/priors/own.py").write_text("import something\n", encoding="utf-8")
    assert library_sha256.__wrapped__() not in (before, None)  # nothing that is shipped needs it
    (tmp_path / "stage2_prior/priors/gaussian.py").write_text("import something\n", encoding="utf-8")
    assert library_sha256.__wrapped__() is None


# --- what is remembered, and what is recalled


@pytest.fixture
def question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Question]:
    """With an answer whose artifacts are taken for intact."""
    made = Question.of(validate(composed()), COMMAND, Store(tmp_path))
    assert made is not None
    monkeypatch.setattr(Store, "is_intact", lambda self, artifact: True)
    made.remember(answer_to(made))
    yield made


def test_an_answer_comes_back_as_it_was(question: Question) -> None:
    assert question.recall() == answer_to(question)


def test_a_whole_run_answers_for_its_report_and_not_the_other_way_round(question: Question) -> None:
    for stage in ("evaluate", "report"):
        other = replace(question, config=question.config.model_copy(update={"stage": stage}))
        assert other.recall() == answer_to(question)
        shutil.rmtree(question.store.root / answers.FOLDER)
        other.remember(answer_to(question))
        assert question.recall() is None and other.recall() is not None
        question.remember(answer_to(question))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"answer": {}}', "[" * 100_000])
def test_a_damaged_answer_is_none(question: Question, content: str) -> None:
    question.place("all").write_text(content, encoding="utf-8")
    assert question.recall() is None


@pytest.mark.parametrize("key", ["../../elsewhere", "0" * 19, 3, None])
def test_a_forged_answer_is_none(question: Question, key: Any) -> None:
    content = json.loads(question.place("all").read_text(encoding="utf-8"))["answer"]
    content["keys"]["vae"] = key
    forged = json.dumps({"answer": content, "checksum": answers.checksum(content)})
    question.place("all").write_text(forged, encoding="utf-8")
    assert question.recall() is None


def test_one_changed_word_is_noticed(question: Question) -> None:
    text = question.place("all").read_text(encoding="utf-8")
    assert "words" in text
    question.place("all").write_text(text.replace("words", "lies", 1), encoding="utf-8")
    assert question.recall() is None


def test_files_that_have_just_changed_are_not_remembered(images: Path, tmp_path: Path) -> None:
    words = ("data=image_folder", f"data.root={images}")
    made = Question.of(validate(composed(*words)), COMMAND, Store(tmp_path / "store"))
    assert made is not None and not made.is_settled
    made.remember(answer_to(made))
    assert not (tmp_path / "store").exists()


def test_files_that_change_while_the_job_runs_are_not_remembered(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SETTLED_NS", 0)
    words = ("data=image_folder", f"data.root={images}")
    made = Question.of(validate(composed(*words)), COMMAND, Store(tmp_path / "store"))
    assert made is not None and made.is_settled
    touched(images)
    made.remember(answer_to(made))
    assert not (tmp_path / "store").exists()


def test_a_library_that_is_edited_while_the_job_runs_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Question.of(validate(composed()), COMMAND, Store(tmp_path / "store"))
    assert made is not None
    monkeypatch.setattr(answers, "source_sha256", lambda path: "another")
    made.remember(answer_to(made))
    assert not (tmp_path / "store").exists()


def test_only_so_many_are_kept(question: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ANSWERS", 2)
    question.remember(answer_to(question))
    assert len(list((question.store.root / answers.FOLDER).iterdir())) == 2


# --- within a whole run


def test_a_missing_or_damaged_artifact_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[str] = []
    perform = pipeline.perform

    def counted(job: Any) -> Answer | None:
        worked.append(job.config.stage)
        return perform(job)

    monkeypatch.setattr(pipeline, "perform", counted)
    assert run_here(tmp_path, *SMALL).stages("done in") == STAGES
    assert run_here(tmp_path, *SMALL).stages("skipped") == STAGES and worked == ["all"]
    store = tmp_path / "runs/store"
    shutil.rmtree(next((store / "latents").iterdir()))
    assert run_here(tmp_path, *SMALL, "stage=report").stages("skipped") == ["evaluation"]  # which needs no latents
    assert worked == ["all"]
    assert run_here(tmp_path, *SMALL).stages("done in") == ["latents"] and worked == ["all", "all"]
    figures = next((store / "evaluation").iterdir()) / "figures.json"
    figures.write_bytes(figures.read_bytes() + b" ")
    result = run_here(tmp_path, *SMALL)
    assert result.stages("done in") == ["evaluation"] and "is damaged" in result.out and len(worked) == 3
    stray = next((store / "prior").iterdir()) / "stray.json"
    stray.write_text("{}", encoding="utf-8")
    assert "is no part of" in run_here(tmp_path, *SMALL).out and len(worked) == 4
    assert run_here(tmp_path, *SMALL).stages("skipped") == STAGES and len(worked) == 4


def test_what_is_refused_is_refused_again(tmp_path: Path) -> None:
    """A report of it had nothing to refuse, and says nothing of a whole run."""
    assert run_here(tmp_path, *SMALL).code == 0
    bad = (*SMALL, "sample.label=99")
    assert run_here(tmp_path, *bad, "stage=report").code == 0
    first, second = (run_here(tmp_path, *bad) for _ in range(2))
    assert first.code == second.code == 2 and first.err == second.err and "no label" in first.err
