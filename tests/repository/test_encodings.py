"""Text is UTF-8 whatever the locale says: a store that was written under one is read under another."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODE = re.compile(r"[rwaxt+]+")
OTHER_OPENS = {"os", "Image", "archive", "tarfile"}
"""Whose `open` takes no encoding."""


def test_all_text_is_read_and_written_as_utf_8() -> None:
    names = ((path, path.relative_to(ROOT).parts) for path in ROOT.rglob("*.py"))
    places = [path for path, parts in names if parts[0] != "runs" and not any(part[0] == "." for part in parts)]
    found = {
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in places
        for call in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(call, ast.Call) and leaves_it_to_the_locale(call)
    }
    assert len(places) > 100 and not found, f'give encoding="utf-8": {", ".join(sorted(found))}'


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("p.read_text()", True),
        ("p.write_text(x)", True),
        ("p.open()", True),
        ("p.open('w')", True),
        ("open(p)", True),
        ("open(p, mode='a')", True),
        ("os.fdopen(d, 'w')", True),
        ("subprocess.run(c, text=True)", True),
        ("p.read_text(encoding='utf-8')", False),
        ("p.read_text('utf-8')", False),
        ("open(p, 'rb')", False),
        ("p.open('wb')", False),
        ("archive.open('x.npy')", False),
        ("os.open(p, os.O_RDONLY)", False),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
        ("subprocess.run(c, capture_output=True)", False),
    ],
)
def test_what_counts_as_text_in_the_encoding_of_the_locale(code: str, expected: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call) and leaves_it_to_the_locale(call) is expected


def leaves_it_to_the_locale(call: ast.Call) -> bool:
    """Whether `call` reads or writes text and does not say in which encoding."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    function, num = call.func, len(call.args)
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    is_method = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") not in OTHER_OPENS
    if "encoding" in given:
        return False
    if name in ("read_text", "write_text"):
        return num == (name == "write_text")
    if name == "open" and is_method:
        return _is_text(call.args[0] if num else given.get("mode"))
    if name == "fdopen" or (name == "open" and isinstance(function, ast.Name)):
        return _is_text(call.args[1] if num > 1 else given.get("mode"))
    return name in ("run", "Popen", "check_output") and getattr(given.get("text"), "value", False) is True


def _is_text(mode: ast.expr | None) -> bool:
    """Whether a file opened in `mode`, None for the default one, is text."""
    if mode is None:
        return True
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and MODE.fullmatch(mode.value) is not None
