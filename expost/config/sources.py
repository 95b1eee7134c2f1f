"""Whether the code behind a configuration is the shipped one; where it is not, its source is part of the keys.

    python -m expost.config.sources        # after a shipped class was edited: write down what is shipped

What is shipped has a `version`, which is raised when its results change; `shipped.json` lists it: by hashes where one
adds a class, by its name alone where it is machinery. Any other source that a class needs (a new prior, an edited one,
a module that was put beside the machinery, a package of the user's and what it imports of its own) counts by its text,
so that figures of what it said before do not come back.
"""

import ast
import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOMS = (
    "stage1_vae.bottlenecks",
    "stage1_vae.data",
    "stage1_vae.likelihoods",
    "stage1_vae.nets",
    "stage1_vae.objectives",
    "stage2_prior.combined",
    "stage2_prior.flows",
    "stage2_prior.nets",
    "stage2_prior.priors",
    "stage2_prior.tilted",
    "stage2_prior.wrappers",
)
"""Where one adds a class: packages and modules of this project whose sources are compared."""
PROJECT = ("stage1_vae", "stage2_prior", "expost")
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of libraries, of whichever interpreter: a virtual environment may see those of another one."""
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = Path(__file__).with_name("shipped.json")


def own_sources(cls: type) -> str | None:
    """SHA-256 over all sources that `cls` needs and that are not shipped; None where there are none."""
    hashes: dict[str, str] = {}
    for base in cls.__mro__:
        _collect(base.__module__, base.__module__.partition(".")[0] if base is cls else "", hashes)
    own = {name: content for name, content in hashes.items() if shipped_sources().get(name, "") not in (content, None)}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest() if own else None


def _collect(name: str, package: str, hashes: dict[str, str]) -> None:
    """Put the hash of the module `name`, and of those that it imports, into `hashes`; `package`: wherever it lies."""
    top = name.partition(".")[0]
    counts = top in PROJECT or top == package or not _is_library(top)
    if top in PROJECT and shipped_sources().get(name, "") is None:
        return  # machinery: its version counts
    if name in hashes or not counts or (path := _file_of(name)) is None:
        return
    hashes[name] = source_sha256(path)
    for imported in _imports(name, path):
        _collect(imported, package, hashes)


def _file_of(name: str) -> Path | None:
    """The file of a module; None where there is none: built in, a folder, or no module at all."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # whatever the packages around it raise when they are imported
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _is_library(top: str) -> bool:
    """Whether a package belongs to Python or was installed: its releases have numbers of their own."""
    try:
        spec = importlib.util.find_spec(top)  # of a package that has none above it, nothing is imported
    except (ImportError, ValueError):
        return True
    if spec is None:
        return True
    files = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    libraries = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return all(INSTALLED.intersection(Path(file).parts) or libraries.intersection(Path(file).parents) for file in files)


def _imports(name: str, path: Path) -> Iterator[str]:
    """Names that the module imports anywhere in its source, and that may be modules."""
    if path.suffix != ".py":
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # of something that is imported nowhere after all
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def source_sha256(path: Path) -> str:
    """Of a source, however its lines end."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


@cache
def shipped_sources() -> dict[str, str | None]:
    """Every shipped module -> SHA-256 of its source in `ROOMS`, None elsewhere."""
    table: dict[str, str | None] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return table


def current_sources() -> dict[str, str | None]:
    """The same, of the sources as they are."""
    table: dict[str, str | None] = {}
    for top in PROJECT:
        place = ROOT / top
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            compared = any(f"{name}.".startswith(f"{room}.") for room in ROOMS)
            table[name] = source_sha256(path) if compared else None
    return dict(sorted(table.items()))


if __name__ == "__main__":
    SHIPPED.write_text(json.dumps(current_sources(), indent=2) + "\n", encoding="utf-8")
    sys.exit(0)
