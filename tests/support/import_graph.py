"""Which module of the packages imports which: an import within a function, or for types alone, counts."""

import ast
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("expost", "stage1_vae", "stage2_prior")


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    paths = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")]
    names = [".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


def imports() -> dict[str, set[str]]:
    """Every module -> the modules that it names in an import anywhere."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = found & known.keys() - {name}
    for targets in graph.values():  # `from package import module` is about the module
        targets -= {target for target in targets if any(other.startswith(f"{target}.") for other in targets)}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (strongly connected components of more than one)."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        left = [start]
        while left:
            for target in graph[left.pop()] - found:
                found.add(target)
                left.append(target)
        return found

    all_reached = {name: reached(name) for name in graph}
    groups = {frozenset(b for b in all_reached[a] if a in all_reached[b]) for a in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)
