"""Output that cannot show a sign, that nobody reads, that was closed from the beginning."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROJECT

from expost.base import streams
from expost.base.streams import SPELLING, Stream, Unheard

PIPELINE = [sys.executable, str(PROJECT / "pipeline.py")]
STORE = ("stage=store", "logger=csv")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "v ^ -> 1.2+/-0.1 x ... -- caf\\xe9 \\u5b57 \\xff"),
        ("latin-1", "v ^ -> 1.2 ± 0.1 × ... -- café \\u5b57 \\xff"),
        ("cp437", "v ^ -> 1.2 ± 0.1 x ... ── café \\u5b57 \\xff"),
        ("utf-8", "↓ ↑ → 1.2 ± 0.1 × … ── café 字 \\xff"),
        ("utf-16", "↓ ↑ → 1.2 ± 0.1 × … ── café 字 \\xff"),
    ],
)
def test_what_an_encoding_lacks_is_spelt(encoding: str, shown: str) -> None:
    taken = io.BytesIO()
    stream = Stream(taken, encoding=encoding, errors=SPELLING)
    print("↓ ↑ → 1.2 ± 0.1 × … ── café 字 \udcff", end="", file=stream, flush=True)
    assert taken.getvalue().decode(encoding) == shown


def test_a_reader_that_is_gone_and_a_full_disk_are_told_apart_and_once(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    for place, reason in ((write_end, None), ("/dev/full", "No space left on device")):
        with open(place, "wb") as file, Stream(file, encoding="utf-8") as stream:
            with pytest.raises(Unheard) as lost:
                print("line", file=stream, flush=True)
            assert lost.value.reason == reason and not isinstance(lost.value, Exception)
            print("on the way out", file=stream, flush=True)
    assert streams.end(Unheard(None)) == 141


def shell(command: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Exit code of the first program of `command` in bash, and what came out."""
    words = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", "-", *PIPELINE]
    done = subprocess.run(words, cwd=folder, capture_output=True, env={**os.environ, **environment}, timeout=60)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where there is an empty store to list, which takes no second."""
    place = tmp_path_factory.mktemp("listed")
    (place / "runs/store").mkdir(parents=True)
    return place


@pytest.mark.parametrize("words", ["--help", "-m seed=0,1 " + " ".join(STORE)])
def test_a_closed_pipe_ends_without_a_word(folder: Path, words: str) -> None:
    code, out, err = shell(f'"$@" {words} | true', folder)
    assert (code, out, err) in [(141, "", ""), (0, "", "")]  # 0: it had said all before `true` was gone


def test_the_reader_that_leaves_for_certain_gives_141(folder: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([*PIPELINE, *STORE], cwd=folder, stdout=write_end, stderr=subprocess.PIPE, timeout=60)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_what_was_closed_from_the_beginning_does_not_end_it(folder: Path, closed: str) -> None:
    code, _, err = shell(f'"$@" {" ".join(STORE)} {closed}', folder)
    assert (code, err) == (0, "")


def test_a_full_disk_behind_the_output_is_one_line(folder: Path) -> None:
    code, out, err = shell(f'"$@" {" ".join(STORE)} >/dev/full', folder)
    assert code == 2 and out == "" and err.count("\n") == 1 and "No space left on device" in err


def test_a_descriptor_that_is_closed_is_no_file_of_ours(tmp_path: Path) -> None:
    """Or the first file that is opened would be number 1, and take what libraries print."""
    script = "from expost.base.streams import open_streams; open_streams(); print(open('kept', 'w').fileno() > 2)"
    script += "; import sys, os; os.write(1, b'a library'); sys.exit(os.path.getsize('kept'))"
    command = f"exec '{sys.executable}' -c \"{script}\" >&-"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, timeout=60).returncode == 0
