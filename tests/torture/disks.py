"""A disk that fills in the middle of each stage: one line, exit code 2; with room again the same command completes."""

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pool import Attempt, Plan, Tally
from recipe import Reference, comparable, difference

from expost.store.artifacts import Store
from expost.store.housekeeping import folder_bytes

DISK_BYTES = 64 * 2**20
PAGE = 4096
STAGES = {
    "vae": "vae",
    "vae, while an epoch end is kept": "vae",
    "latents": "encode",
    "prior": "prior",
    "prior, while an epoch end is kept": "prior",
    "features": "evaluate",
    "evaluation": "evaluate",
    "report": "report",
    "samples": "sample",
    "export": "export",
}
"""What is being made when the disk fills -> the stage that the user asks for."""
NEEDS = ("vae", "latents", "prior", "features", "evaluation")


def full_disks(plan: Plan, known: Mapping[str, Reference]) -> Tally:
    tally = Tally()
    disk = plan.root / "disk"
    disk.mkdir()
    cases = list(STAGES)
    for number in plan.numbers(len(cases)):
        tally.tried += 1
        said = _mounted(disk) or _filled(disk, known["autoregressive"], cases[number])
        subprocess.run(["umount", str(disk)], check=os.path.ismount(disk), capture_output=True)
        tally.held += said is None
        if said is not None:
            print(f"{'not held':<13}disk {number} ({cases[number]}): {said}", flush=True)
    return tally


def _mounted(disk: Path) -> str | None:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        return "not tried: only root may mount a small disk"
    return None


def _filled(disk: Path, reference: Reference, what: str) -> str | None:
    """Fill the disk so that half of `what` fits, run, make room, run again; what did not hold."""
    stage = STAGES[what]
    words = [*reference.words, f"stage={stage}", *_extra(stage)]
    keeps = "kept" in what
    if not keeps:
        words.append("trainer.keep_share=0")
    _prepared(disk, reference, what.split(",")[0])
    room = _half(reference, what)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free // PAGE * PAGE - room))
    end = Attempt(disk, words).wait()
    if end.code != 2 or len(end.err.splitlines()) != 1 or os.strerror(errno.ENOSPC) not in end.err:
        return f"with {room} bytes of room: exit code {end.code}: {end.err[-700:]!r}"
    ballast.unlink()
    end = Attempt(disk, words).wait()
    if end.code or end.err:
        return f"with room again: exit code {end.code}: {end.err[-700:]}"
    store = Store(disk / "runs/store")
    made = comparable(store)
    expected = {name: content for name, content in reference.content.items() if name in made}
    made = {name: content for name, content in made.items() if not name.startswith("samples/")}
    left = [*store.unfinished_folders(), *store.quarantined_folders(), *(store.root / ".resume").glob("*")]
    unlike = difference(expected, made)
    return f"other content in {unlike}" if unlike else ", ".join(map(str, left)) or None


def _extra(stage: str) -> list[str]:
    return {"sample": ["sample.num=500"], "export": ["export.out=exported"]}.get(stage, [])


def _prepared(disk: Path, reference: Reference, what: str) -> None:
    """The store as it is before `what` is made."""
    before = NEEDS[: NEEDS.index(what)] if what in NEEDS else NEEDS
    (disk / "runs/store").mkdir(parents=True)
    for name in before:
        shutil.copytree(reference.folder / "runs/store" / name, disk / "runs/store" / name)


def _half(reference: Reference, what: str) -> int:
    """Bytes of room, in whole pages, that hold half of what is written."""
    if "kept" in what:
        return 5 * PAGE  # less than one state, and enough for the logs
    if what in NEEDS:
        size = folder_bytes(reference.folder / "runs/store" / what)
    elif what == "report":
        size = sum(path.stat().st_size for path in (reference.folder / "runs/latest").resolve().glob("*"))
    else:
        size = folder_bytes(reference.folder / "runs/store/vae") + folder_bytes(reference.folder / "runs/store/prior")
    return size // 2 // PAGE * PAGE
