"""stage=compare: stored reports in one table and one figure. Trains nothing and needs no data.

A run is any folder with a `report.json` under `paths.root`: named as it lies there, by a path, as `latest`, or as a
sweep, which stands for all of its jobs.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from expost.base.command import timestamp, typed_program
from expost.base.errors import UserError, nearest
from expost.base.terminal import new_console
from expost.config.schema import Config
from expost.evaluation.comparison import views
from expost.evaluation.comparison.compare import Comparison, available, compare
from expost.evaluation.comparison.figure import draw
from expost.evaluation.comparison.sources import Source, beside, read
from expost.evaluation.errors import EvaluationError
from expost.job import new_folder
from expost.store.safe import UnsafeError, read_bytes
from expost.sweeps.failures import FAILURE, read_failure
from expost.training.tracking import tracking

REPORT = "report.json"
MAX_REPORT_BYTES = 2**24
LATEST = "latest"
WIDE = 120


def run_comparison(config: Config) -> Path:
    """Compare what `config.compare` asks for; the folder that was written.

    Raises:
        UserError: no such run, no run at all, damaged reports, or runs that cannot be compared.
    """
    sources = choose(config)
    if config.compare.sort is not None and config.compare.sort not in available(sources):
        raise UserError(f"compare.sort={config.compare.sort}: {nearest(config.compare.sort, available(sources))}")
    try:
        comparison = compare(sources, config.compare.sort)
    except EvaluationError as error:
        raise UserError(str(error)) from error
    folder = new_folder(config.paths.root / f"{timestamp()}-{config.name or 'compare'}")
    write(comparison, folder)
    console = new_console()
    console.print(views.terminal(comparison, min(console.width, WIDE)))
    console.print()
    say(f"{folder / 'comparison.html'}; .csv, .md and .png beside it")
    group = config.compare.group or config.name or "compare"
    plain = config.model_dump(mode="json")
    with tracking(config.logger, folder / "logs", "compare", group, plain, partial(say, what="wandb")) as tracker:
        tracker.table("comparison", *views.records(comparison))
        tracker.pictures({"comparison_figure": folder / "comparison.png"})
        num_priors = sum(line.is_learned for line in comparison.lines)
        tracker.summarise({"num_runs": len(comparison.runs), "num_priors": num_priors})
    return folder


def say(words: str, what: str = "compare") -> None:
    print(f"{what:<10} {words}", flush=True)


def write(comparison: Comparison, folder: Path) -> None:
    """comparison.csv, .md, .png and .html in `folder`.

    Raises:
        UserError: they cannot be written.
    """
    try:
        draw(comparison, folder / "comparison.png")
        texts = {
            "comparison.csv": views.to_csv(comparison),
            "comparison.md": views.to_markdown(comparison, "comparison.png"),
            "comparison.html": views.to_html(comparison, folder / "comparison.png"),
        }
        for name, text in texts.items():  # names may hold bytes that are no UTF-8
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; set paths.root=DIR") from error


def choose(config: Config) -> list[Source]:
    """The runs that were asked for; without a word, those that go with the newest.

    Raises:
        UserError: there is none, or no such one.
    """
    root, request = config.paths.root, config.compare
    if request.runs and request.group is not None:
        raise UserError("compare.runs and compare.group both choose runs; give one of them")
    if request.runs:
        folders = [folder for name in request.runs for folder in folders_named(root, name)]
        return [load(root, folder) for folder in dict.fromkeys(folders)]
    folders = report_folders(root)
    if not folders:
        raise UserError(f"there is no run in {root}; make one with {typed_program()}, or set paths.root=DIR")
    if request.group is not None:
        return sources_of_group(root, folders, request.group)
    return sources_beside_newest(root, folders)


def report_folders(root: Path) -> list[Path]:
    """Folders with a report under `root`, oldest first."""
    reports = [path for pattern in ("*", "sweeps/*/*") for path in root.glob(f"{pattern}/{REPORT}")]
    reports.sort(key=lambda path: (path.stat().st_mtime, str(path)))
    return [path.parent for path in reports if path.parent.name != LATEST]


def folders_named(root: Path, name: str) -> list[Path]:
    """The folders that `name` stands for: a run, or all jobs of a sweep.

    Raises:
        UserError: there is no such run, with the nearest name.
    """
    for place in (root / name, root / "sweeps" / name, Path(name).expanduser()):
        place = place.parent if place.name == REPORT else place
        if (place / REPORT).is_file():
            return [place.resolve()]
        if jobs := sorted((path.parent for path in place.glob(f"*/{REPORT}")), key=_job_number):
            _tell_left_out(place)
            return [job.resolve() for job in jobs]
    known = {folder.relative_to(root).as_posix() for folder in report_folders(root)}
    known |= {Path(name).parent.as_posix() for name in known if name.startswith("sweeps/")}
    known |= {LATEST} if (root / LATEST).is_dir() else set()
    if (root / name).is_dir():
        raise UserError(f"compare.runs: {root / name} holds no {REPORT}; its run made no report, or it is no run")
    raise UserError(f"compare.runs={name}: no such run in {root}; {nearest(name, known)}")


def _tell_left_out(sweep: Path) -> None:
    """Name the jobs of a sweep that have no report, and why."""
    folders = (path for path in sweep.iterdir() if path.name.isdigit() and not (path / REPORT).is_file())
    for folder in sorted(folders, key=_job_number):
        failed = (folder / FAILURE).is_file()
        reason = read_failure(folder / FAILURE).message if failed else "it has no report (yet)"
        say(f"left out: job {folder.name}: {reason}")


def _job_number(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if folder.name.isdigit() else (-1, folder.name)


def load(root: Path, folder: Path) -> Source:
    """The report of one folder.

    Raises:
        UserError: it cannot be read, or is no report.
    """
    inside = folder.resolve().is_relative_to(root.resolve())
    name = folder.resolve().relative_to(root.resolve()).as_posix() if inside else str(folder)
    try:
        place = (folder / REPORT).resolve(strict=True)  # `latest` is a link
        return read(name, read_bytes(place.parent, place.name, MAX_REPORT_BYTES).decode())
    except UnsafeError as error:
        raise UserError(f"{name}: {REPORT} is refused ({error}); leave this run out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / REPORT} cannot be read ({error}); leave this run out") from error
    except EvaluationError as error:
        raise UserError(str(error)) from error


def group_of(source: Source) -> str:
    """The configured name of a run; of older reports, its folder's name without the time."""
    return source.provenance.group or re.sub(r"^\d{8}-\d{6}-", "", source.name.removeprefix("sweeps/"))


def sources_of_group(root: Path, folders: Sequence[Path], group: str) -> list[Source]:
    sources = readable(root, folders)
    members = [source for source in sources if group_of(source) == group]
    if not members:
        raise UserError(f"compare.group={group}: no such group; {nearest(group, {group_of(s) for s in sources})}")
    say(f"{_count(members)} of the group {group}")
    return members


def sources_beside_newest(root: Path, folders: Sequence[Path]) -> list[Source]:
    """The newest run's sweep; of a run alone, every run on the same VAE or, if there is no other, on the same data."""
    newest = load(root, folders[-1])
    sweep = folders[-1].parent
    if sweep.parent == root / "sweeps":
        jobs = [load(root, folder) for folder in folders_named(root, str(sweep.relative_to(root)))]
        say(f"{_count(jobs)} of the last sweep, {sweep.name}; others: compare.runs=[a,b]")
        return jobs
    sources = beside(newest, [*readable(root, folders[:-1]), newest])
    same = [source for source in sources if source.vae_recipe == newest.vae_recipe]
    shown, what = (same, "VAE") if len({source.evaluation for source in same}) > 1 else (sources, "data")
    say(f"{_count(shown)} on the same {what} as the newest, {newest.name}; others: compare.runs=[a,b]")
    return shown


def readable(root: Path, folders: Sequence[Path]) -> list[Source]:
    """The reports of `folders`, but for what is none: nobody asked for these runs by name."""
    sources = []
    for folder in folders:
        try:
            sources.append(load(root, folder))
        except UserError as error:
            say(f"left out: {error}")
    return sources


def _count(sources: Sequence[Source]) -> str:
    return f"{len(sources)} run{'s' * (len(sources) != 1)}"
