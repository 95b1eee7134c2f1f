"""How often a job comes back to a file that it has been in, on its walk through the stages of a real run.

    python -m benchmarks.walk [ROOT] [OVERRIDE ...]        # ROOT: a checkout, of this commit or of an earlier one

A door is a line of the project that hands the job to a function in another file: the job itself, or an object holding
it. Each door counts once, in the order in which the run goes through it; one into a file that was entered before is a
return. Methods of the job, or of what holds it (`job.say`), are no doors.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

RUN = ("debug=fast", "logger=csv", "net.hidden=[32]", "prior.num_components=5")
PACKAGES = ("expost", "stage1_vae", "stage2_prior", "orchestration", "evaluation")
HOLDERS = ("job", "run")
"""Attributes by which an object holds the job."""


class Walk:
    """Doors of a run, as `sys.setprofile` meets them."""

    def __init__(self, root: Path, job_type: type) -> None:
        self.root, self.job_type = f"{root}{os.sep}", job_type
        self.places = (*(f"{self.root}{name}{os.sep}" for name in PACKAGES), f"{self.root}pipeline.py")
        self.doors: dict[tuple[str, int, CodeType], bool] = {}
        self.entered: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name.startswith("<") or not code.co_filename.startswith(self.places):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(self.places):
            caller = caller.f_back
        if caller is None or caller.f_code.co_filename == code.co_filename or not self._is_handed(frame):
            return
        door = (caller.f_code.co_filename, caller.f_lineno, code)
        self.entered.add(caller.f_code.co_filename)
        self.doors.setdefault(door, code.co_filename in self.entered)
        self.entered.add(code.co_filename)

    def _is_handed(self, frame: FrameType) -> bool:
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[:count]]
        if given and frame.f_code.co_varnames[0] == "self" and self._holds(given[0]):
            return False
        return any(map(self._holds, given))

    def _holds(self, value: Any) -> bool:
        if isinstance(value, self.job_type):
            return True
        own = getattr(value, "__dict__", None) or {}
        return any(isinstance(own.get(name), self.job_type) for name in HOLDERS)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    sys.path.insert(0, str(root))
    if (root / "expost").is_dir():
        from expost import __main__ as entry
        from expost import job as jobs
    else:  # an earlier commit
        from orchestration import entry
        from orchestration import stages as jobs
    walk = Walk(root, jobs.Run if hasattr(jobs, "Run") else jobs.Job)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        sys.argv = ["pipeline.py", *RUN, *sys.argv[2:]]
        sys.setprofile(walk)
        code = entry.main()
        sys.setprofile(None)
        os.chdir(root)
    returns = sum(walk.doors.values())
    print(f"exit code {code}: {len(walk.doors)} doors into {len(walk.entered)} files, {returns} of them returns")
    if os.environ.get("DOORS"):
        for (path, line, function), back in walk.doors.items():
            print("return" if back else "      ", f"{path.removeprefix(walk.root)}:{line} -> {function.co_qualname}")


if __name__ == "__main__":
    main()
