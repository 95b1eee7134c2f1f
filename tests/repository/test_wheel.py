"""What is installed is the program: an archive of the sources, the wheel built from it, and a run from that wheel."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import PROJECT, Result

import expost

PACKAGES = ("expost", "stage1_vae", "stage2_prior")
BESIDE = ("benchmarks", "conf", "dashboards", "docs", "findings", "tests")
"""Folders of a checkout that an installation has no use for: `conf` is in it as a folder of `expost`."""
DATA = ("config/shipped.json", "evaluation/**/*.j2")
"""What the package `expost` holds beside code and configurations."""
HEAVY = {"torch", "pytorch_lightning", "hydra", "numpy"}


def call(*words: str | Path, folder: Path) -> Result:
    """A command in `folder`, deaf to the path by which these tests find the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, encoding="utf-8"
    )
    return Result(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Built:
    """Archives of the checkout, and the environment that the wheel is installed in."""

    sources: set[str]
    """Names in the archive of the sources, without its top folder."""
    wheel: set[str]
    python: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built offline from a copy (an old build/ beside the sources would be taken along), the wheel from the archive."""
    folder = tmp_path_factory.mktemp("built")
    copy, environment = folder / "copy", folder / "environment"
    for name in (*PACKAGES, *BESIDE):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "pipeline.py"):
        shutil.copy(PROJECT / name, copy)
    backend = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    done = call(sys.executable, "-c", backend, folder=copy)
    assert done.code == 0, done
    (archive,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    offline = ("--no-deps", "--no-index")
    done = call(*pip, "wheel", "--no-build-isolation", *offline, "-w", folder, archive, folder=folder)
    assert done.code == 0, done
    (wheel,) = folder.glob("*.whl")
    done = call(sys.executable, "-m", "venv", "--without-pip", environment, folder=folder)
    assert done.code == 0, done
    python = environment / "bin/python"
    done = call(*pip, "--python", python, "install", *offline, wheel, folder=folder)
    assert done.code == 0, done
    # What the wheel needs is found where it is; the like file there that leads to the checkout is not read.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    with tarfile.open(archive) as packed:
        sources = {name.partition("/")[2] for name in packed.getnames()}
    with zipfile.ZipFile(wheel) as packed_wheel:
        return Built(sources, set(packed_wheel.namelist()), python)


def test_the_archives_hold_the_packages_and_what_they_read(built: Built) -> None:
    expected = {str(path.relative_to(PROJECT)) for name in PACKAGES for path in (PROJECT / name).rglob("*.py")}
    for pattern in DATA:
        expected |= {str(path.relative_to(PROJECT)) for path in (PROJECT / "expost").glob(pattern)}
    expected |= {f"expost/{path.relative_to(PROJECT)}" for path in (PROJECT / "conf").rglob("*.yaml")}
    assert {"expost/conf/config.yaml", "expost/config/shipped.json", "expost/evaluation/report.html.j2"} < expected
    assert {name for name in built.wheel if ".dist-info/" not in name} == expected
    assert expected < built.sources


def test_the_public_names_come_when_they_are_asked_for(built: Built, tmp_path: Path) -> None:
    code = f"""
import json, sys
import expost
before = sorted({HEAVY!r} & sys.modules.keys())
from expost import {", ".join(expost.__all__)}
import stage1_vae, stage2_prior
places = [sys.modules[name].__file__ or sys.modules[name].__path__[0] for name in {PACKAGES!r}]
print(json.dumps([before, TwoStage.__name__, places]))
"""
    done = call(built.python, "-c", code, folder=tmp_path)
    assert (done.code, done.err) == (0, ""), done
    before, name, places = json.loads(done.out)
    assert before == [] and name == "TwoStage"
    assert all(Path(place).is_relative_to(built.python.parents[1]) for place in places), places


def test_the_main_job_runs_from_the_wheel_in_an_empty_folder(built: Built, tmp_path: Path) -> None:
    program = built.python.with_name("expost")
    asked = call(program, "--help", folder=tmp_path)
    assert (asked.code, asked.err) == (0, "") and "stage=" in asked.out and "mixture" in asked.out
    assert not any(tmp_path.iterdir())
    done = call(program, "stage=all", "debug=fast", "logger=csv", folder=tmp_path)
    assert (done.code, done.err) == (0, ""), done
    assert {"vae", "latents", "prior", "evaluation"} <= set(done.stages("done in"))
    report = json.loads((tmp_path / "runs/latest/report.json").read_text(encoding="utf-8"))
    assert {"standard_normal", "mixture"} <= report["rows"].keys()
    assert (tmp_path / "runs/latest/report.html").exists()
