"""Code of the user's own is part of the keys: what it said before does not come back when it was edited."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import SMALL, keys, run_here

from expost.config import sources
from expost.config.build import origins, versions
from expost.config.sources import SHIPPED, current_sources, own_sources
from stage1_vae.data.arrays import Arrays
from stage1_vae.data.image_folder import ImageFolder
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.transformer import Transformer

SHIPPED_NODES = [{"_target_": "stage2_prior.priors.mixture.Mixture"}, {"_target_": "stage1_vae.nets.conv.Conv"}]
WIDE = """
from stage2_prior.priors.standard_normal import StandardNormal
from mine.numbers import SCALE
class Wide(StandardNormal):
    def _sample(self, n, context, how):
        return SCALE * super()._sample(n, context, how)
"""


def test_the_table_of_what_is_shipped_is_that_of_the_sources() -> None:
    table = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert table == current_sources(), "run: python -m expost.config.sources"
    compared = {name for name, text in table.items() if text is not None}
    assert {"stage2_prior.priors.mixture", "stage1_vae.likelihoods", "stage1_vae.data.folders.layout"} <= compared
    assert table["stage2_prior.em.gaussian"] is None, "machinery"


def test_shipped_classes_are_in_the_keys_by_their_versions_alone() -> None:
    mixture = {"fit of stage2_prior.priors.mixture.Mixture": 5}
    assert origins(SHIPPED_NODES) == versions(SHIPPED_NODES) | mixture and own_sources(Transformer) is None
    assert own_sources(ImageFolder) is None and own_sources(Arrays) is None


@pytest.mark.parametrize("module", ["stage2_prior.priors.transformer", "stage2_prior.nets.transformer"])
def test_an_edited_shipped_source_counts_and_so_does_what_it_imports(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "shipped_sources", lambda: current_sources() | {module: "of another text"})
    assert own_sources(Transformer) is not None and own_sources(Gaussian) is None


def forget() -> None:
    """Nothing of the user's is imported any more, as in a process of its own."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "helper")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the user's, `mine`, on the path."""
    place = tmp_path / "mine"
    place.mkdir()
    (place / "__init__.py").touch()
    (place / "numbers.py").write_text("SCALE = 2.0\n", encoding="utf-8")
    (place / "wide.py").write_text(WIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield place
    forget()


@pytest.mark.parametrize("edited", ["mine/wide.py", "mine/numbers.py", "helper.py", "mine/lazily.py"])
def test_a_class_of_the_users_counts_with_all_that_it_imports_of_its_own(package: Path, edited: str) -> None:
    lazy = "def f():\n    import helper\n    from . import lazily\n    import torch.nn, no_such_module.x\n"
    (package / "wide.py").write_text(WIDE + lazy, encoding="utf-8")
    for name in ("mine/lazily.py", "helper.py", "other.py"):
        (package.parent / name).write_text("X = 1\n", encoding="utf-8")
    wide = importlib.import_module("mine.wide").Wide
    before = own_sources(wide)
    assert before is not None
    (package.parent / "other.py").write_text("X = 2\n", encoding="utf-8")
    assert own_sources(wide) == before, "it imports nothing of that"
    path = package.parent / edited
    crlf = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(crlf)
    assert own_sources(wide) == before, "the ends of lines say nothing"
    path.write_bytes(crlf + b"Y = 3\r\n")
    assert own_sources(wide) != before
    assert origins([{"_target_": "mine.wide.Wide"}]).keys() == {"mine.wide.Wide", "source of mine.wide.Wide"}


def test_a_new_module_among_the_shipped_ones_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {name: text for name, text in current_sources().items() if name != "stage2_prior.priors.gaussian"}
    monkeypatch.setattr(sources, "shipped_sources", lambda: listed)
    assert own_sources(Gaussian) is not None, "not in the table"
    monkeypatch.setattr(sources, "shipped_sources", lambda: listed | {"stage2_prior.priors.gaussian": None})
    assert own_sources(Gaussian) is None, "machinery counts by its version"


def test_libraries_of_another_interpreter_are_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--system-site-packages` and `pip install --user` have them; torch's own sources must not be read."""
    for folder, is_library in (("elsewhere/lib/python3/dist-packages", True), ("my/code", False)):
        place = tmp_path / folder / f"pack_{is_library}"
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
        monkeypatch.syspath_prepend(place.parent)
        assert sources._is_library(place.name) is is_library


def test_an_edited_prior_is_fitted_again(package: Path, tmp_path: Path) -> None:
    words = ("stage=prior", "prior=standard_normal", "prior._target_=mine.wide.Wide", *SMALL[:2], *SMALL[3:])
    for scale, num in (("2.0", 1), ("2.0", 1), ("5.25", 2)):
        (package / "numbers.py").write_text(f"SCALE = {scale}\n", encoding="utf-8")
        forget()
        done = run_here(tmp_path, *words)
        assert done.code == 0, done.err
        assert float(scale) == importlib.import_module("mine.numbers").SCALE, "as edited"
        assert len(keys(tmp_path, "prior")) == num and len(keys(tmp_path, "vae")) == 1
