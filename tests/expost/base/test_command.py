"""Commands that are printed begin with the program that was typed, and mean what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROJECT, run_here

from expost.base.command import PROGRAM, Command, command_line, program, remember_program, shell_line
from expost.base.runtime import WAITING
from expost.base.scratch import stop_message
from expost.sweeps.launchers import TRAVELS


def installed(folder: Path, name: str) -> Path:
    """A command as pip writes it."""
    script = folder / name
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
        "from expost.__main__ import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("original", "argv", "expected"),
    [
        ("python pipeline.py a=1", "pipeline.py a=1", "python pipeline.py"),
        ("python pipeline.py", "pipeline.py", "python pipeline.py"),
        (
            "/v/bin/python3 -X dev ../c/pipeline.py a=1",
            "../c/pipeline.py a=1",
            "/v/bin/python3 -X dev ../c/pipeline.py",
        ),
        ("python -m pipeline a=1", "/c/pipeline.py a=1", "python -m pipeline"),
        ("python -m expost a=1", "/c/expost/__main__.py a=1", "python -m expost"),
        ("python -m pytest -q", "pipeline.py a=1", "python pipeline.py"),
        ("python -m pytest", "pipeline.py", "python pipeline.py"),
        ("python expost a=1", "expost a=1", "python expost"),
    ],
)
def test_what_was_typed_before_the_overrides(original: str, argv: str, expected: str, tmp_path: Path) -> None:
    assert program(original.split(), argv.split()) == expected.split()


def test_a_command_on_the_path_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(installed(tmp_path, "expost"))
    argv = [script, "a=1"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program([sys.executable, *argv], argv) == ["expost"]
    monkeypatch.setenv("PATH", "")
    assert program([sys.executable, *argv], argv) == [script]


def test_a_printed_command_works_where_it_was_printed(tmp_path: Path) -> None:
    installed(tmp_path, "expost")
    place = tmp_path / "empty"
    place.mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def said(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode in (0, 2), done
        return done.stdout + done.stderr

    assert "make one with expost, or set paths.root=DIR" in said("expost stage=store")
    help = said("expost --help")
    assert help.splitlines()[2].startswith("expost [stage=STAGE]") and "`expost --cfg job`" in help
    (place / "copy").write_text(
        (tmp_path / "expost").read_text(encoding="utf-8"), encoding="utf-8"
    )  # which no shell can start by its name
    assert f"make one with {sys.executable} copy, or" in said(f"{sys.executable} copy stage=store")


def test_every_command_begins_with_it_also_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {PROGRAM, *WAITING} <= set(TRAVELS)
    monkeypatch.setenv(PROGRAM, "expost --config-dir mine")
    command = Command(overrides=("stage=vae", "++sweep.metric=x", "data.root=a b", "~debug"))
    assert command.line("prior") == "expost --config-dir mine stage=prior 'data.root=a b' '~debug'"
    assert stop_message(["seed=1"]).endswith("continue with: expost --config-dir mine seed=1")
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "-cd", "mine", "seed=1"])
    remember_program()
    assert command_line("a=1") == "python pipeline.py --config-dir mine a=1"


@pytest.mark.parametrize(
    "word", ["plain", "a b", "it's", "100%", "back\\slash", "[red]x[/]", "café", "tab\tline\nend\x1b", "\udcff"]
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_word_comes_back_from_the_shell_as_it_went_there(
    word: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shown:
        pass

    shown = Shown()
    shown.encoding = encoding  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stdout", shown)
    line = shell_line(["printf", "%s", word])
    monkeypatch.undo()
    assert line.isprintable() and line.encode(encoding)
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert done.stdout == os.fsencode(word)


def test_a_refusal_that_names_a_command_names_this_one(tmp_path: Path) -> None:
    result = run_here(tmp_path, "stage=store")
    assert "make one with python pipeline.py, or set paths.root=DIR" in result.err
