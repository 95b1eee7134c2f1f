"""Ctrl-C in the middle of a fit: one line that names the command, exit code 130, nothing half-finished in the store."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from command_line import PROJECT, SMALL, ctrl_c_is_heard
from processes import ENDLESS, wait_for


def test_ctrl_c_in_a_fit_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "pipeline.py"), *SMALL, *ENDLESS, "trainer.keep_share=1e9"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with ctrl_c_is_heard():
        process = subprocess.Popen(command, cwd=tmp_path, **pipes)
    with process:
        try:
            wait_for(tmp_path, "runs/store/.resume/vae-*/epoch-*", process)  # the fit is under way
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    said = re.fullmatch(r"stopped; vae is kept up to epoch (\d+) of 1000000; continue with: (.*)\n", err)
    assert said is not None, err
    assert shlex.split(said[2]) == command, "as it was typed, interpreter and all"
    kept = {path.name for path in tmp_path.glob("runs/store/.resume/vae-*/*")}  # two, if it came between two steps
    assert any(name.startswith(f"epoch-{said[1]}-of-1000000-") for name in kept) and len(kept) <= 2, kept
    assert not list(tmp_path.glob("runs/store/vae/*"))
    assert not list(tmp_path.glob("runs/store/vae/.*.*")), "the scratch folder stayed"
