"""What a configuration was answered with, so that the same question needs no images, no nets and no torch.

The keys of a job follow from its images and its nets, and to read and build those is nearly all that a job does which
finds everything in the store. So a job that ends well writes down what it found out, in `STORE/.answers/HASH.json`;
HASH is of whatever the answer can depend on: the configuration and the choices that names come from, the text of this
library, the packages installed beside it, what the processor and its accelerators are, and the files of images by name,
size, inode and times. A job that is asked the same takes the answer from there, if all that it speaks of is in the
store and intact. Where there is any doubt (a class that is not ours, a shipped source that was edited, files that have
just changed, several ranks) there is no such answer, and everything is worked out.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from expost.base.command import Command
from expost.base.places import CONF
from expost.config.schema import Config, Evaluation, Node
from expost.config.sources import PROJECT, ROOT, current_sources, shipped_sources, source_sha256
from expost.store.artifacts import KEY, Artifact, Store
from expost.store.manifest import sha256_of

FOLDER = ".answers"
VERSION = 1
"""Part of every hash; raised when what an answer says, or depends on, changes."""
ANSWERED_BY = {"all": ("all", "evaluate", "report"), "evaluate": ("evaluate", "report"), "report": ("report",)}
"""A stage that was asked for -> the stages that are refused nothing which it was not refused too, and say the same."""
OF_THE_RUN = {
    "stage",
    "upstream",
    "paths",
    "logger",
    "launcher",
    "sweep",
    "compare",
    "store",
    "export",
    "plan",
    "score",
}
"""Sections and choices that change neither a key nor what a report says."""
SETTLED_NS = 2 * 10**9
"""A file that has changed since may change again under the same time: some disks write down whole seconds."""
MOST_FILES, MOST_BYTES, MOST_ANSWERS = 100_000, 2**20, 1000
VISIBLE = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
"""What decides which accelerators a process has, and which of them is the first."""
ACCELERATORS = ("nvidia", "kfd", "dxg")
"""How the names of their devices begin."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a job knows that could write its report.

    Attributes:
        keys: of the evaluation and of all that it needs, by stage, in the order in which they are made.
        said: lines before any stage: what, and in which words.
        prior, evaluation: these sections as the parts were built from them.
        provenance: keys and words for the report.
        dataset, dataset_words: what was taken of the data, for report.json and in words.
    """

    keys: dict[Annotated[str, Field(pattern=r"^[a-z]+$")], Annotated[str, Field(pattern=f"^{KEY.pattern}$")]]
    said: list[tuple[str, str]]
    prior: Node
    evaluation: Evaluation
    provenance: dict[str, str]
    dataset: Facts
    dataset_words: dict[str, str]

    def artifacts(self, store: Store, stage: str) -> list[Artifact]:
        """Those in `store` that stage=STAGE looks for; a report needs nothing but the figures."""
        names = ["evaluation"] if stage == "report" else list(self.keys)
        return [Artifact(name, self.keys[name], store.root / name / self.keys[name]) for name in names]


@dataclass(frozen=True)
class Question:
    """Everything that an answer depends on.

    Attributes:
        config, command: what was asked.
        store: whose answers.
        facts: JSON; its hash names the answer.
        is_settled: whether the files have been as they are for long enough to be known by their times.
    """

    config: Config
    command: Command
    store: Store
    facts: Facts
    is_settled: bool

    @classmethod
    def of(cls, config: Config, command: Command, store: Store) -> "Question | None":
        """None: the answer may depend on something else."""
        # A feature file may change under its name, and its net and a classifier share a folder of the store.
        if config.stage not in ANSWERED_BY or config.trainer.num_ranks > 1 or config.evaluation.features is not None:
            return None
        if "_target_" in config.vae_node:  # the model's own files may change
            return None
        asked = {name: part for name, part in config.model_dump(mode="json").items() if name not in OF_THE_RUN}
        own = [".".join(target.split(".")[:-1]) in shipped_sources() for target in targets(asked)]
        if not all(own) or (library := library_sha256()) is None or (files := files_of(config.data)) is None:
            return None
        facts = {
            "version": VERSION,
            "config": asked,
            "choices": {group: choice for group, choice in command.choices.items() if group not in OF_THE_RUN},
            "overrides": [word for word in command.overrides if section(word) not in OF_THE_RUN],
            "library": library,
            "packages": installed(),
            "machine": machine(),
            "files": sha256_of({"files": files}),
        }
        changed = max((times[-1] for _, times in files), default=0)
        return cls(config, command, store, facts, time.time_ns() - changed > SETTLED_NS)

    def place(self, stage: str) -> Path:
        """The file of the answer to it under stage=STAGE."""
        return self.store.root / FOLDER / f"{sha256_of({**self.facts, 'stage': stage})}.json"

    def recall(self) -> Answer | None:
        """The answer, if it was ever given, is as it was written down, and is still true of the store."""
        try:
            with self.place(self.config.stage).open("rb") as file:
                content = json.loads(file.read(MOST_BYTES))
            if content["checksum"] != checksum(content["answer"]):
                return None
            answer = TypeAdapter(Answer).validate_python(content["answer"])
            artifacts = answer.artifacts(self.store, self.config.stage)
            return answer if all(self.store.is_intact(artifact) for artifact in artifacts) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def remember(self, answer: Answer) -> None:
        """Write `answer` down, unless what it depends on has changed since the question was asked."""
        again = Question.of(self.config, self.command, self.store)
        if not self.is_settled or again is None or again.facts != self.facts:
            return
        if library_sha256.__wrapped__() != self.facts["library"]:  # edited while the job ran, by the code of before
            return
        plain = asdict(answer) | {"evaluation": answer.evaluation.model_dump(mode="json")}
        with suppress(OSError, ValueError):  # a store that can only be read; a number that JSON does not know
            content = json.dumps({"checksum": checksum(plain), "answer": plain}, allow_nan=False)
            for stage in ANSWERED_BY[self.config.stage]:
                place = self.place(stage)
                place.parent.mkdir(parents=True, exist_ok=True)
                scratch = place.with_suffix(f".{os.getpid()}.part")
                scratch.write_text(content, encoding="utf-8")
                os.replace(scratch, place)
            by_age = sorted((self.store.root / FOLDER).iterdir(), key=lambda path: path.stat().st_mtime)
            for path in by_age[:-MOST_ANSWERS]:
                path.unlink(missing_ok=True)


def checksum(answer: Mapping[str, Any]) -> str:
    """Of what JSON makes of `answer`.

    Raises:
        ValueError: it makes nothing of it.
    """
    return sha256_of(json.loads(json.dumps(answer)))


def section(override: str) -> str:
    """The first part of the key that an override sets."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def targets(value: Any) -> Iterator[str]:
    """All classes that a configuration names, at any depth."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from targets(part)


@cache  # of the process: what it has imported is what it does
def library_sha256() -> str | None:
    """Of the sources and configurations of this library; None: a class of it is not as it was shipped.

    Such a class may need sources that are nowhere near.
    """
    current = current_sources()
    if any(sha256 not in (None, current.get(name)) for name, sha256 in shipped_sources().items()):
        return None
    places = [*((ROOT / top, "*.py") for top in PROJECT), (CONF, "*.yaml")]
    paths = [path for place, pattern in places for path in sorted(place.rglob(pattern))]
    return sha256_of({os.path.relpath(path, ROOT): source_sha256(path) for path in paths})


@cache
def installed() -> list[str]:
    """Name and version of every package that can be imported, and of Python."""
    names = {name for place in sys.path if os.path.isdir(place) for name in os.listdir(place or ".")}
    return [sys.version, *sorted(name for name in names if name.endswith((".dist-info", ".egg-info", ".egg-link")))]


@cache
def machine() -> Facts:
    """What decides which arithmetic is native here: the processor, the accelerators, and which of them may be used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    devices = os.listdir("/dev") if os.path.isdir("/dev") else []
    drivers = [Path("/proc/driver/nvidia/version"), *sorted(Path("/proc/driver/nvidia").glob("gpus/*/information"))]
    return {
        "processor": [platform.machine(), next((line for line in lines if line.startswith(("flags", "Features"))), "")],
        "devices": sorted(name for name in devices if name.startswith(ACCELERATORS)),
        "drivers": [path.read_text(encoding="utf-8") for path in drivers if path.is_file()],
        "visible": {name: os.environ[name] for name in VISIBLE if name in os.environ},
    }


def files_of(data: Node) -> list[tuple[str, tuple[int, ...]]] | None:
    """Every file of the images: its name, and inode, size and the times of its last changes, in nanoseconds.

    None: they are not to be found, or too many to be looked at.
    """
    if not (root := data.get("root")):
        return []
    place = os.path.realpath(os.path.expanduser(str(root)))
    files: list[tuple[str, tuple[int, ...]]] = []
    visited = set[tuple[int, int]]()

    def refuse(error: OSError) -> None:
        raise error

    try:
        if not os.path.isdir(place):
            return [(place, _identity(place))]
        for folder, folders, names in os.walk(place, onerror=refuse, followlinks=True):
            files.append((folder, (0,)))
            facts = os.stat(folder)
            if (facts.st_dev, facts.st_ino) in visited:  # a link that leads back
                folders.clear()
                continue
            visited.add((facts.st_dev, facts.st_ino))
            folders.sort()
            files += [(name, _identity(os.path.join(folder, name))) for name in sorted(names)]
            if len(files) > MOST_FILES:
                return None
    except OSError:
        return None
    return files


def _identity(path: str) -> tuple[int, ...]:
    """The last one is the time of the last change of any kind, which nobody can set."""
    facts = os.stat(path)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
