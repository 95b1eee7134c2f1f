"""`vae=checkpoint`: only weights are read, under the prefix that fits, and it is said which."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from outside.their_models import images
from safetensors.torch import save_file
from torch import Tensor, nn

from stage1_vae.external.checkpoint import Checkpoint
from stage1_vae.external.errors import ExternalError

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, width))
        self.outer = nn.Linear(width, 16)
    def encode(self, x):
        return self.inner(x.flatten(1))
    def decode(self, z):
        return self.outer(z).view(-1, 1, 4, 4)
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(SOURCE, encoding="utf-8")
    return f"{tmp_path / 'net.py'}:Net"


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    return nn.ModuleDict({"inner": inner, "outer": nn.Linear(4, 16)}).state_dict()


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def load(tmp_path: Path, content: Any, module: str, **keys: Any) -> tuple[dict[str, Tensor], str]:
    """The state of the model that was loaded, and what was said."""
    path = tmp_path / "file.ckpt"
    torch.save(content, path)
    loaded = Checkpoint(path=path, module=module, **keys).load()
    return loaded.model.state_dict(), "; ".join(loaded.said)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "model.", "vae.", "module.", "model._orig_mod.", "_orig_mod.", "a.b.c."])
def test_a_common_prefix_is_found(tmp_path: Path, module: str, prefix: str) -> None:
    state, said = load(tmp_path, {"state_dict": prefixed(weights(), prefix), "epoch": 3}, module)
    assert same(state, weights()) and "weights of state_dict" in said and "parameters" in said


def test_bare_weights_and_safetensors(tmp_path: Path, module: str) -> None:
    assert same(load(tmp_path, weights(), module)[0], weights())
    save_file(prefixed(weights(), "model."), path := tmp_path / "model.safetensors")
    assert same(Checkpoint(path=path, module=module).load().model.state_dict(), weights())


def test_it_is_stage_1(tmp_path: Path, module: str) -> None:
    torch.save({"state_dict": weights()}, path := tmp_path / "file.ckpt")
    source = Checkpoint(path=path, module=module)
    loaded = source.load()
    autoencoder = source.autoencoder(loaded, images(), 0)
    assert autoencoder.spec.shape == (4,) and autoencoder.said.startswith("file.ckpt in net.py:Net")
    torch.save({"state_dict": weights(1)}, path)
    other = source.load()
    assert other.sha256 != loaded.sha256 and other.weights_sha256 != loaded.weights_sha256


def test_other_modules_of_the_training_are_left_out_and_said(tmp_path: Path, module: str) -> None:
    content = {"state_dict": weights() | {"loss.weight": torch.zeros(3), "discriminator.bias": torch.zeros(2)}}
    state, said = load(tmp_path, content, module)
    assert same(state, weights()) and "left out 2 other tensors (discriminator, loss)" in said


def test_a_real_checkpoint_of_lightning_with_averaged_weights(tmp_path: Path, module: str) -> None:
    class Training(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))})
            self.model["outer"] = nn.Linear(4, 16)

        def training_step(self, batch: Tensor) -> Tensor:
            x = batch.flatten(1)
            return (self.model["outer"](self.model["inner"](x)) - x).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=2, callbacks=[averaging], default_root_dir=tmp_path, **quiet)  # type: ignore[arg-type]
    trainer.fit(Training(), torch.utils.data.DataLoader(images(16), batch_size=4))  # type: ignore[arg-type]
    (path,) = tmp_path.rglob("*.ckpt")
    content = torch.load(path, weights_only=True)
    average, raw = (
        {name.removeprefix("model."): value for name, value in content[key].items()}
        for key in ("state_dict", "current_model_state")
    )
    assert not same(average, raw)
    loaded = Checkpoint(path=path, module=module).load()
    assert same(loaded.model.state_dict(), average) and "averaged weights (state_dict)" in "; ".join(loaded.said)
    loaded = Checkpoint(path=path, module=module, weights="raw").load()
    assert same(loaded.model.state_dict(), raw) and "raw weights (current_model_state)" in "; ".join(loaded.said)


def test_averages_under_names_without_dots_borrow_the_buffers_of_the_raw_weights(tmp_path: Path, module: str) -> None:
    raw, parameters = weights(0), {name: v for name, v in weights(1).items() if name not in buffers()}
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in parameters.items()}
    content = {"state_dict": raw | averages | {"model_ema.decay": torch.tensor(0.99)}}
    state, said = load(tmp_path, content, module)
    assert same(state, raw | parameters)
    assert (
        "averaged weights (model_ema in state_dict); vae.weights=raw takes the others; 3 tensors without an average"
        in said
    )
    state, said = load(tmp_path, content, module, weights="raw")
    assert same(state, raw) and "raw weights" in said


def buffers() -> list[str]:
    return [f"inner.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]


def test_averages_that_are_not_there(tmp_path: Path, module: str) -> None:
    with pytest.raises(ExternalError, match=r"no averaged weights; .*leave out vae.weights"):
        load(tmp_path, {"state_dict": weights()}, module, weights="average")


def test_what_is_missing_is_named(tmp_path: Path, module: str) -> None:
    state = {name: value for name, value in weights().items() if not name.startswith("outer")}
    with pytest.raises(ExternalError, match=r"lacks 2 of 11 tensors of the module: outer.weight, outer.bias; it holds"):
        load(tmp_path, {"state_dict": state}, module)
    with pytest.raises(ExternalError, match=r"lacks 11 of 11 tensors .* and 8 more; it holds .* vae.prefix"):
        load(tmp_path, {"state_dict": weights()}, module, prefix="model.")
    with pytest.raises(ExternalError, match=r"inner.2.weight is \(4, 8\), the module's is \(5, 8\)"):
        load(tmp_path, {"state_dict": weights()}, module, arguments={"width": 5})
    extra = weights() | {"inner.3.weight": torch.zeros(1)}
    with pytest.raises(ExternalError, match=r"holds 1 tensor\(s\) that the module has no place for: inner.3.weight"):
        load(tmp_path, {"state_dict": extra}, module)


class Pickled:
    """Anything that is no tensor."""


def test_what_would_execute_is_refused(tmp_path: Path, module: str) -> None:
    with pytest.raises(
        ExternalError, match=r"holds more than tensors, .*not run here; where it was trained: torch.save"
    ) as e:
        load(tmp_path, {"state_dict": weights(), "hyper_parameters": Pickled()}, module)
    assert "\n" not in str(e.value)


def test_files_that_are_none(tmp_path: Path, module: str) -> None:
    path = tmp_path / "file.ckpt"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(ExternalError, match=r"is no checkpoint that can be read|holds more than tensors"):
            Checkpoint(path=path, module=module).load()
    with pytest.raises(ExternalError, match="there is no such file"):
        Checkpoint(path=tmp_path / "none.ckpt", module=module).load()
    with pytest.raises(ExternalError, match=r"vae.path=FILE.ckpt"):
        Checkpoint(module=module).load()
    with pytest.raises(ExternalError, match=r"holds a list, and no weights"):
        load(tmp_path, [torch.zeros(3)], module)
