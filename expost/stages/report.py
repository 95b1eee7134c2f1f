"""A finished run made visible: table, report.json, report.html, pictures, and `runs/latest` leading to them."""

import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.table import Table
from rich.text import Text

from expost.base.errors import UserError
from expost.base.terminal import new_console
from expost.evaluation.errors import EvaluationError
from expost.evaluation.exploration.content import (
    CONTENT,
    MOST_JSON_BYTES,
    MOST_SPRITE_BYTES,
    POINTS,
    STEPS,
    Exploration,
    page_data,
)
from expost.evaluation.page import PICTURES, render_html
from expost.evaluation.report import Report
from expost.evaluation.sections import Dataset, Provenance
from expost.evaluation.tables import printable
from expost.evaluation.views import terminal_ladders, terminal_table
from expost.job import Job
from expost.parts.identity import CIRCUMSTANCES
from expost.store.answers import Answer
from expost.store.artifacts import Artifact
from expost.store.safe import UnsafeError, read_bytes, read_json
from expost.training.tracking import tracking, with_one_name
from expost.training.wandb_run import agent

LONE_BYTES = "backslashreplace"
"""How text tells the bytes of a name that are no UTF-8; in JSON it is their escape."""
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def repeat(job: Job, answer: Answer) -> None:
    """Say and write again what another job was answered, all of which is in the store and intact.

    Raises:
        UserError: the folder cannot be written.
    """
    sections = {"prior": answer.prior, "evaluation": answer.evaluation}
    job = replace(job, config=job.config.model_copy(update=sections))
    for what, words in answer.said:
        job.say(what, words)
    artifacts = answer.artifacts(job.store, job.config.stage)
    for artifact in artifacts:
        job.store.tidy(artifact.stage, artifact.key)
        job.say(artifact.stage, f"unchanged, skipped: {artifact.path}")
    publish(job, artifacts[-1], answer)


def publish(job: Job, figures: Artifact, answer: Answer) -> None:
    """Write the report of `figures` into the run's folder and print it; in a sweep, print only where it is.

    Args:
        job: whose folder is written.
        figures: the evaluation's artifact.
        answer: where they come from, and what was taken of the data.

    Raises:
        UserError: the folder cannot be written.
    """
    dataset = Dataset.from_json(answer.dataset, "dataset")
    report = replace(stored_report(figures), dataset=dataset, provenance=provenance(job, figures, answer.provenance))
    exploration = stored_exploration(figures)
    config_yaml = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False)
    try:
        drawn = {caption: figures.path / f"{stem}.png" for stem, caption in PICTURES.items()}
        pictures = {caption: _copied(path, job.folder) for caption, path in drawn.items() if path.is_file()}
        _write_whole(job.folder / "config.yaml", config_yaml)
        page = render_html(report, pictures, config_yaml, answer.dataset_words, exploration)
        _write_whole(job.folder / "report.html", page)
        _write_whole(job.folder / "report.json", report.text())
        point_latest(job)
    except OSError as error:
        raise UserError(f"cannot write {job.folder}: {error.strerror}; make room or set paths.root=DIR") from error
    if identity := agent():
        _tell_agent(job, report, identity)
    if job.command.is_sweep:
        return job.say("report", str(job.folder / "report.html"))
    console = new_console()
    console.print()
    console.print(terminal_table(report, console.width))
    console.print()
    for table in terminal_ladders(report, console.width):
        console.print(table)
    bullets = Table.grid(padding=(0, 1, 0, 0))
    for sentence in report.sentences:
        bullets.add_row("-", Text(printable(sentence)))
    console.print(bullets)
    console.print()
    job.say("report", str(job.folder / "report.html"))
    if pictures:
        job.say("pictures", str(next(iter(pictures.values()))))
    use = ["joint.use=true"] * (job.config.stage == "joint")
    job.say("next", job.command.line("sample", *use, "sample.num=1000", "sample.out=samples.npz"))


def stored_report(figures: Artifact) -> Report:
    """What an evaluation wrote.

    Raises:
        UserError: it cannot be read, as that of an early version that wrote it in the locale's encoding.
    """
    try:
        return Report.from_json(read_json(figures.path, "figures.json"), "figures.json")
    except (UnsafeError, EvaluationError) as error:
        raise UserError(f"{error}; move {figures.path} away, and the same command makes it again") from error


def stored_exploration(figures: Artifact) -> dict[str, Any] | None:
    """What of an evaluation can be explored, as the page holds it; None where there is nothing of it.

    Raises:
        UserError: it cannot be read, or is not what an evaluation writes.
    """
    if not (figures.path / CONTENT).is_file():
        return None
    try:
        exploration = Exploration.from_json(read_json(figures.path, CONTENT, MOST_JSON_BYTES), CONTENT)
        exploration.check()
        wanted = {POINTS: exploration.points, STEPS: exploration.traversals}
        images = {
            name: read_bytes(figures.path, name, MOST_SPRITE_BYTES) for name, part in wanted.items() if part is not None
        }
    except (UnsafeError, EvaluationError) as error:
        raise UserError(f"{error}; move {figures.path} away, and the same command makes it again") from error
    return page_data(exploration, images.get(POINTS), images.get(STEPS))


def point_latest(job: Job) -> None:
    """Make `latest` lead to the folder of `job`, in one step: a reader sees the old one or the new one.

    The link is made in that folder: a run that is killed leaves nothing elsewhere. What stands in its place and is no
    link of ours (runs were copied, a disk knows no links) stays, and the user is told.

    Raises:
        OSError: the run's folder cannot be written.
    """
    latest, link = job.config.paths.root / "latest", job.folder / ".latest"
    remedy = f"the results are in {job.folder}"
    if os.path.lexists(latest) and not latest.is_symlink():
        job.say("latest", f"{latest} is no link but a file or folder, and stays as it is: move it away; {remedy}")
        return
    link.unlink(missing_ok=True)
    try:
        target = os.path.relpath(job.command.sweep_dir or job.folder, job.config.paths.root)
        link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        job.say("latest", f"this disk knows no links ({error.strerror}); {remedy}")
        return
    os.replace(link, latest)


def _tell_agent(job: Job, report: Report, identity: Mapping[str, str]) -> None:
    """The figures of the report in the one run that belongs to the agent's sweep: stages may all have been there."""
    config = job.config.model_dump(mode="json")
    chosen = [word.partition("=")[0].lstrip("+") for word in job.command.overrides]
    plain = OmegaConf.create(config)
    config |= {key: OmegaConf.select(plain, key) for key in chosen if "." in key}  # as the sweep calls them
    logs, say = job.folder / "logs", lambda words: job.say("wandb", words)
    with tracking(job.config.logger, logs, "report", job.name, config, say, identity) as tracker:
        tracker.summarise(with_one_name(report.named_figures(), job.command.choices.get("prior", "learned")))


def _write_whole(path: Path, text: str) -> None:
    """All of `text` or nothing: a full disk leaves no half page behind."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_text(text, encoding="utf-8", errors=LONE_BYTES)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copyfile(source, folder / source.name))


def provenance(job: Job, figures: Artifact, keys: Mapping[str, str]) -> Provenance:
    """Where the figures come from: when, with what, on what, from which artifacts.

    Raises:
        UserError: what is stored of their circumstances cannot be read.
    """
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(figures.manifest()["finished"]))
    facts = {"date": date, "run": job.folder.name, "seeds": job.config.seeds.model_dump(), **keys}
    try:
        stored = read_json(figures.path, CIRCUMSTANCES)
        return Provenance.from_json({**stored, **facts, "evaluation": figures.key}, CIRCUMSTANCES)
    except (UnsafeError, EvaluationError) as error:
        raise UserError(f"{error}; move {figures.path} away, and the same command makes it again") from error
