"""What an unfinished stage keeps of its training, so that it continues where a kill or a crash has ended it.

`STORE/.resume/STAGE-KEY/epoch-12-of-300-in-41.7s.SHA256.ckpt` is one such state. It is written beside its place, forced
to the disk and renamed to a name that holds its own hash: what is there under such a name is whole, or found damaged.
The one before it goes only then. Only the holder of the key's lock reads or writes here; the folder goes when the
artifact is in its place.

Keeping is to cost little: a state is kept unless that would take more than `share` of the time since the last one, as
long as the last one took. So a stage that is killed loses at most one epoch, or `1 / share` times what keeping costs.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from expost.store.manifest import file_sha256, flush

NAME = re.compile(
    r"(?P<unit>[a-z]+)-(?P<done>\d+)-of-(?P<total>\d+)(-in-(?P<seconds>\d+\.\d)s)?"
    r"\.(?P<sha256>[0-9a-f]{64})\.(?P<kind>[a-z]+)"
)
SCRATCH = ".writing"
FIRST_COST_SECONDS = 0.05
"""What keeping is taken to cost before it was done once."""


@dataclass(frozen=True)
class TrainingState:
    """One kept state, by its file's name.

    Attributes:
        path: the file.
        unit, done, total: how far training was: epoch 12 of 300.
        seconds: of the stage until then, of all attempts that led there.
        sha256: of the file.
        kind: how it is written: ckpt (Lightning's checkpoint), safetensors.
    """

    path: Path
    unit: str
    done: int
    total: int
    seconds: float
    sha256: str
    kind: str

    @classmethod
    def of(cls, path: Path) -> "TrainingState | None":
        if (name := NAME.fullmatch(path.name)) is None or path.is_symlink() or not path.is_file():
            return None
        done, total, seconds = int(name["done"]), int(name["total"]), float(name["seconds"] or 0)
        return cls(path, name["unit"], done, total, seconds, name["sha256"], name["kind"])

    @property
    def words(self) -> str:
        return f"{self.unit} {self.done} of {self.total}"


def states_in(folder: Path) -> list[TrainingState]:
    """What is kept in `folder`, the furthest first; whether it is intact is another question."""
    states = [TrainingState.of(path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((state for state in states if state is not None), key=lambda state: -state.done)


def damaged_files(folder: Path) -> Iterator[str]:
    """Names of the files in `folder` that are not what their name says, or that have no business there.

    Raises:
        OSError: a file is there and cannot be read.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        state = TrainingState.of(path)
        if path.name != SCRATCH and (state is None or file_sha256(path) != state.sha256):
            yield path.name


class TrainingStates:
    """Keeps and finds the states of one stage.

    Args:
        folder: of this stage and key alone; made when there is something to keep.
        quarantine: where damaged files are moved to.
        share: how much of the time may go into keeping; 0: nothing is kept.
        say: tells the user.
        begin: called before the first state is kept.
        check: called before each; raises where what was trained so far is not to be kept.

    Attributes:
        earlier_seconds: what earlier attempts took to the state from which the stage continues.
    """

    def __init__(
        self,
        folder: Path,
        quarantine: Path,
        share: float,
        say: Callable[[str], None] = lambda words: None,
        begin: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.quarantine, self.share, self.say = folder, quarantine, share, say
        self.begin, self.check = begin, check
        self.cost_seconds = FIRST_COST_SECONDS
        self.num_kept, self.seconds = 0, 0.0
        self._begun = self._since = time.perf_counter()
        (folder / SCRATCH).unlink(missing_ok=True)
        self.earlier_seconds = next((state.seconds for state in states_in(folder)), 0.0)

    @property
    def name(self) -> str:
        """Whose states these are, in the states themselves too."""
        return self.folder.name

    def start(self) -> None:
        """Training begins now: the time before it is nobody's."""
        self._since = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether keeping now stays within its share of the time."""
        return self.share > 0 and self.cost_seconds <= self.share * (time.perf_counter() - self._since)

    def keep(
        self, unit: str, done: int, total: int, kind: str, write: Callable[[Path], object], seal: bool = True
    ) -> None:
        """Keep what `write` writes into the file that it is given. With several ranks all come here, and one seals.

        Raises:
            OSError: the disk is full or gone; what was kept before is as it was.
        """
        started = time.perf_counter()
        scratch = self.folder / SCRATCH
        if seal:
            self.check()
            if self.num_kept == 0:
                self.begin()
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            write(scratch)
            if seal:
                flush(scratch)
                seconds = self.earlier_seconds + time.perf_counter() - self._begun
                place = self.folder / f"{unit}-{done}-of-{total}-in-{seconds:.1f}s.{file_sha256(scratch)}.{kind}"
                os.replace(scratch, place)
                flush(self.folder)
                for state in states_in(self.folder):
                    if state.path != place:
                        state.path.unlink(missing_ok=True)
        finally:
            if seal:
                scratch.unlink(missing_ok=True)
        self._since = time.perf_counter()
        self.cost_seconds = self._since - started
        self.num_kept, self.seconds = self.num_kept + 1, self.seconds + self.cost_seconds

    def find(self, kind: str, complaint: Callable[[Path], str | None]) -> TrainingState | None:
        """The furthest intact state that `complaint` has nothing to say against; the others are moved aside.

        Raises:
            OSError: there is one that cannot be read, or moved.
        """
        aside = [self._put_aside(self.folder / name, "is damaged") for name in list(damaged_files(self.folder))]
        usable = None
        for state in states_in(self.folder):
            reason = complaint(state.path) if state.kind == kind else f"is no {kind} file"
            if reason is None:
                usable = state
                break
            aside.append(self._put_aside(state.path, reason))
        for words in aside:
            self.say(words if usable else f"{words}; training starts over")
        self.earlier_seconds = usable.seconds if usable else 0.0
        return usable

    def _put_aside(self, path: Path, reason: str) -> str:
        """Move a state that cannot be used to the quarantine; what to say of it."""
        aside = self.quarantine / f"resume-{self.name}-{time.time_ns()}"
        aside.mkdir(parents=True)
        os.replace(path, aside / path.name)
        return f"what was kept of its training {reason}: moved to {aside}"

    @property
    def words(self) -> str | None:
        """How far the stage is kept, for the user; None: nothing is."""
        return next((state.words for state in states_in(self.folder)), None)
