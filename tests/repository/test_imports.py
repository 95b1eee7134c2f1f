"""Imports go one way: no circle, also none that an import within a function, or for types alone, would hide."""

from import_graph import circles, imports


def test_no_circle_of_imports() -> None:
    assert circles(imports()) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
