"""`vae=module`: the user's own file, imported, called, hashed; what is wrong with it is one line."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from outside.their_models import images

from stage1_vae.external.errors import ExternalError
from stage1_vae.external.module import Module
from stage1_vae.external.source import Loaded

SOURCE = """
import torch
from torch import nn
from parts import scaled

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Linear(16, width)
        self.outer = nn.Linear(width, 16)
    def encode(self, x):
        return scaled(self.inner(x.flatten(1)))
    def decode(self, z):
        return self.outer(z).view(-1, 1, 4, 4)

def make(width=3):
    torch.manual_seed(0)
    return Net(width)

class Half:
    encoder = 1
    def encode(self, x): ...

made = make(5)
number = 3
def nothing(): pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "parts.py").write_text("def scaled(x): return 2 * x\n", encoding="utf-8")
    path = tmp_path / "their vae.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def refusal(**keys: Any) -> str:
    with pytest.raises(ExternalError) as caught:
        Module(**keys).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "dims", "arguments"), [("make", 3, {}), ("Net", 6, {"width": 6}), ("made", 5, {})])
def test_a_function_a_class_or_an_object(file: Path, name: str, dims: int, arguments: dict[str, Any]) -> None:
    path = list(sys.path)
    source = Module(module=f"{file}:{name}", arguments=arguments)
    loaded = source.load()
    assert sys.path == path and loaded.name == f"their vae.py:{name}"
    assert loaded.said == (f"Net, {16 * dims * 2 + dims + 16:,} parameters",)
    autoencoder = source.autoencoder(loaded, images(), 0)
    assert autoencoder.spec.shape == (dims,) and autoencoder.said.startswith(loaded.name)


def test_an_installed_module() -> None:
    source = Module(module="outside.their_models:Codes")
    assert source.autoencoder(source.load(), images(), 0).family == "codes"


def test_the_hash_is_of_weights_and_of_the_sources_in_its_folder(file: Path) -> None:
    def hashes(name: str = "make") -> tuple[str, str]:
        loaded = Module(module=f"{file}:{name}").load()
        return loaded.sha256, loaded.weights_sha256

    first = hashes()
    assert hashes() == first
    (file.parent / "parts.py").write_text("def scaled(x): return 3 * x\n", encoding="utf-8")
    changed = hashes()
    assert changed[0] != first[0] and changed[1] == first[1]
    model = Module(module=f"{file}:make").load().model
    x = images()
    assert torch.equal(model.encode(x), 3 * model.inner(x.flatten(1)))  # and what was hashed is what runs
    (file.parent / "unrelated.py").write_text("", encoding="utf-8")
    assert hashes() == changed


def test_two_folders_with_parts_of_one_name(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text(SOURCE, encoding="utf-8")
    (other.parent / "parts.py").write_text("def scaled(x): return -x\n", encoding="utf-8")
    x = images()
    one, two = (Module(module=f"{path}:make").load().model for path in (file, other))
    torch.testing.assert_close(one.encode(x), -2 * two.encode(x))


def test_what_changes_results_is_in_the_ingredients(file: Path) -> None:
    source = Module(module=f"{file}:Net", arguments={"width": 6})
    ingredients = source.ingredients(source.load())
    assert ingredients["arguments"] == {"width": 6} and ingredients["name"] == "Net"
    assert ingredients["class"] == "stage1_vae.external.module.Module"


def test_a_file_that_does_not_import_says_where_and_keeps_the_traceback(file: Path) -> None:
    file.write_text("import torch\n\nimport no_such_package\n", encoding="utf-8")
    line = refusal(module=f"{file}:make")
    assert "their vae.py line 3: ModuleNotFoundError: No module named 'no_such_package'" in line
    traceback = Path(line.partition("(traceback: ")[2].removesuffix(")"))
    assert "Traceback" in traceback.read_text(encoding="utf-8")
    (file.parent / "parts.py").write_text("def scaled(x:\n", encoding="utf-8")
    file.write_text(SOURCE, encoding="utf-8")
    assert "parts.py line 1: SyntaxError" in refusal(module=f"{file}:make")
    (file.parent / "parts.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    assert "SystemExit: 3" in refusal(module=f"{file}:make")


def test_a_maker_that_raises(file: Path) -> None:
    line = refusal(module=f"{file}:make", arguments={"depth": 3})
    assert "their vae.py:make(depth)" in line and "TypeError" in line and "'depth'" in line


def test_a_name_that_makes_no_model_is_told_what_is_there(file: Path) -> None:
    assert "it has Net, make, Half, made, nothing" in refusal(module=f"{file}:build")
    assert "without decode; it has encoder, encode" in refusal(module=f"{file}:Half")
    assert "None comes of it" in refusal(module=f"{file}:nothing")
    assert "number is an int; name a function or class" in refusal(module=f"{file}:number")
    assert "takes none" in refusal(module=f"{file}:made", arguments={"width": 3})


def test_what_was_typed_is_not_enough(file: Path) -> None:
    assert "vae.module is missing: give vae.module=FILE.py:NAME" in refusal()
    assert "it has Net, make, Half, nothing" in refusal(module=str(file))
    assert "there is no such file" in refusal(module=f"{file.parent / 'none.py'}:make")
    assert "No module named 'no_such_package'" in refusal(module="no_such_package:make")


LOOSE = """
import torch
from pathlib import Path
from torch import nn

class Loose(nn.Module):
    def __init__(self, table, scale):
        super().__init__()
        self.layers = [nn.Linear(16, 3)]  # which torch knows nothing of
        nn.init.constant_(self.layers[0].weight, 0.5)
        self.table = torch.full((3, 16), table)
        self.scale = float(Path(__file__).with_name("scale.txt").read_text())
        self.loss = self.layers[0].weight.sum() * scale  # left behind by a training
    def encode(self, x):
        return self.scale * self.layers[0](x.flatten(1))
    def decode(self, z):
        return (z @ self.table).view(-1, 1, 4, 4)
"""


def test_what_torch_does_not_know_of_a_module_is_its_own_all_the_same(tmp_path: Path) -> None:
    path, scale = tmp_path / "loose.py", tmp_path / "scale.txt"
    path.write_text(LOOSE, encoding="utf-8")

    def load(table: float = 1.0, kept: float = 2.0, loss: float = 1.0) -> Loaded:
        scale.write_text(str(kept), encoding="utf-8")
        return Module(module=f"{path}:Loose", arguments={"table": table, "scale": loss}).load()

    one = load()
    assert "51 parameters" in one.said[0]
    assert not any(parameter.requires_grad for parameter in one.model.layers[0].parameters())
    assert load().sha256 == load(loss=3.0).sha256 == one.sha256  # what was computed is no weight
    assert load(table=2.0).weights_sha256 != one.weights_sha256
    assert load(kept=1.0).sha256 != one.sha256
