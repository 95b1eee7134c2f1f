"""The limits of size that keep a file one idea and a function one glance; see docs/architecture.md."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from import_graph import PACKAGES, PROJECT, imports, modules

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FILES = 500, 60, 15
SATELLITE_LINES = 60
SEVERAL = {
    "expost.stages",
    "stage1_vae.bottlenecks",
    "stage1_vae.data",
    "stage1_vae.nets",
    "stage1_vae.objectives",
    "stage2_prior.nets",
    "stage2_prior.priors",
    "stage2_prior.wrappers",
}
"""Rooms where one adds a class: a file each, however short."""
FOLDERS = [*PACKAGES, "tests", "benchmarks", "dashboards"]


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py"))


def test_no_file_is_longer_than_can_be_read() -> None:
    lengths = {str(path.relative_to(PROJECT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_seen_at_a_glance() -> None:
    long = {}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long[f"{name}.{node.name}"] = length
    assert long == {}


def test_folders_hold_few_files() -> None:
    counts = Counter(path.parent.relative_to(PROJECT) for path in sources() if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_a_short_file_with_one_importer_is_a_paragraph_of_it() -> None:
    importers = Counter(target for targets in imports().values() for target in targets)
    short = {
        name: importers[name]
        for name, path in modules().items()
        if path.name != "__init__.py"
        and len(path.read_text(encoding="utf-8").splitlines()) < SATELLITE_LINES
        and not any(name.startswith(f"{room}.") for room in SEVERAL)
    }
    assert {name for name, count in short.items() if count == 1} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_there_is_something_to_measure(package: str) -> None:
    assert sum(name.startswith(f"{package}.") for name in modules()) > 20
