"""Exported models that mean harm: each is refused by name, in one line, with nothing executed and no memory taken."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_model import TINY, exported, reseal, rewrite
from hostile.checkpoints import Bomb
from hostile.models import CONFIGS, PLACES, TARGETS, TEXTS, WEIGHTS, one
from hostile.watch import refuse
from torch import nn

from expost.export.config import CONFIG, PRIOR_FILE, VAE_FILE, read_config
from expost.export.two_stage import TwoStage
from expost.store.safe import UnsafeError, open_file, parse_json, read_bytes, resolve_class
from stage1_vae.net import Net
from stage1_vae.nets.mlp import MLP


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("honest"), *TINY, "prior=gaussian", "+prior.wrap=[standardize]")


@pytest.fixture
def copy(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to harm; what runs would leave a canary there or here."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(honest, tmp_path / "model"))


@pytest.mark.parametrize("part", ["net", "bottleneck", "likelihood", "prior"])
def test_every_alias_in_every_part(copy: Path, honest: Path, part: str) -> None:
    for target in TARGETS:
        shutil.copy(honest / CONFIG, copy / CONFIG)
        keywords = {"_target_": target, "command": "touch canary", "args": ["touch canary"]}

        def change(content: dict[str, Any], node: dict[str, Any] = keywords) -> None:
            content[part] = node
            content["versions"][str(node["_target_"])] = 1

        rewrite(copy, change)
        refuse(copy, "_target_")


def test_every_alias_as_a_wrapper(copy: Path, honest: Path) -> None:
    for target in TARGETS:
        shutil.copy(honest / CONFIG, copy / CONFIG)
        rewrite(copy, partial(dict.update, wrap=[target]))
        refuse(copy, "_target_|wrap")


def test_real_classes_are_found_under_their_own_names() -> None:
    assert resolve_class("stage1_vae.nets.mlp.MLP", Net) is MLP  # type: ignore[type-abstract]
    assert resolve_class("torch.nn.Linear", nn.Module) is nn.Linear  # the library's own second name for it
    assert resolve_class("torch.optim.Adam", torch.optim.Optimizer) is torch.optim.Adam
    for target in ("torch.nn.modules.container.Any", "stage1_vae.nets.conv.Net", "torch.optim.adam.Tensor"):
        with pytest.raises(UnsafeError, match="_target_"):
            resolve_class(target, object)


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(copy: Path, name: str) -> None:
    change, match = CONFIGS[name]
    rewrite(copy, change)
    refuse(copy, match)


@pytest.mark.parametrize("name", TEXTS)
def test_texts(copy: Path, name: str) -> None:
    content, match = TEXTS[name]
    (copy / CONFIG).write_bytes(content)
    refuse(copy, match)


@pytest.mark.parametrize("name", PLACES)
def test_places(copy: Path, name: str) -> None:
    attack, match = PLACES[name]
    attack(copy)
    refuse(copy, match)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", "", ".", "a\0b", "..\\x", "link/x", "a/link"]
)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "x").write_text("secret", encoding="utf-8")
    (folder / "link").symlink_to(tmp_path)
    (folder / "a/link").symlink_to(tmp_path / "x")
    (folder / "a/b").write_text("mine", encoding="utf-8")
    assert read_bytes(folder, "a/b", 100) == b"mine"
    with pytest.raises(UnsafeError), open_file(folder, name):
        pass


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    (tmp_path / "link").symlink_to("a")
    before = len(os.listdir("/proc/self/fd"))
    for name in 20 * ("a/b", "a", "link/b", "a/missing", "../x"):
        try:
            read_bytes(tmp_path, name, 10)
        except UnsafeError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_brackets_in_strings_are_no_nesting() -> None:
    text = json.dumps({"a": "[{" * 1000 + '\\"[' * 1000, "b": [[{"c": "]"}]]})
    assert parse_json(text.encode(), "it")["b"] == [[{"c": "]"}]]


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_files(copy: Path, name: str) -> None:
    content, match = WEIGHTS[name]
    for file in (VAE_FILE, PRIOR_FILE):
        kept = (copy / file).read_bytes()
        (copy / file).write_bytes(content)
        if content:
            reseal(copy)
        refuse(copy, match)
        (copy / file).write_bytes(kept)


def test_a_terabyte_that_is_there(copy: Path) -> None:
    with (copy / VAE_FILE).open("wb") as file:
        file.write(one(shape=[2**38], data_offsets=[0, 2**40])[:-8])
        try:
            file.truncate(file.tell() + 2**40)  # sparse
        except OSError:
            pytest.skip("this file system has no sparse files of a terabyte")
    refuse(copy, "asks for")


def test_pickled_weights_under_the_right_name(copy: Path) -> None:
    torch.save(Bomb(), copy / VAE_FILE)
    reseal(copy)
    refuse(copy, "damaged")


@pytest.mark.parametrize("file", [VAE_FILE, PRIOR_FILE, CONFIG])
def test_every_truncation_is_found(copy: Path, file: str) -> None:
    whole = (copy / file).read_bytes().rstrip(b"\n")
    for length in {*range(0, len(whole), len(whole) // 40), len(whole) - 1, 8, 9}:
        (copy / file).write_bytes(whole[:length])
        refuse(copy, file)


@pytest.mark.parametrize("file", [VAE_FILE, PRIOR_FILE])
def test_flipped_bits_of_weights_are_found(copy: Path, file: str) -> None:
    whole = (copy / file).read_bytes()
    for place in {*range(0, len(whole), len(whole) // 100), *range(16), len(whole) - 1}:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (copy / file).write_bytes(flipped)
        refuse(copy, file)


def test_every_flipped_bit_of_the_configuration_is_found(copy: Path) -> None:
    whole = (copy / CONFIG).read_bytes()
    for place in range(len(whole) - 1):  # the last byte is the end of the line
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (copy / CONFIG).write_bytes(flipped)
        with pytest.raises(UnsafeError):
            read_config(copy)


def test_the_honest_one_is_loaded(copy: Path) -> None:
    assert TwoStage.load(copy).sample(2).shape == (2, 1, 8, 8)
