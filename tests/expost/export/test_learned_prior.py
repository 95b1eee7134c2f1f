"""A prior by itself, and a prior beside somebody else's autoencoder: saved, loaded, joined, refused."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_model import exported, reseal, rewrite, stages_of
from sklearn.datasets import load_digits
from torch import Tensor, nn

from expost import LatentDataset, LearnedPrior, TwoStage, fit_prior
from expost.export.config import CONFIG, PRIOR_FILE
from expost.store.safe import UnsafeError

LOC = np.random.default_rng(0).normal(size=(120, 3)).astype("f4")
LABEL = np.arange(120) % 3
FITS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "mixture": ({"loc": LOC, "log_std": LOC / 9 - 1}, "mixture", {"num_components": 3}),
    "classes": ({"loc": LOC, "labels": LABEL}, "mixture", {"num_components": 2, "conditional": True}),
    "network": (
        {"loc": LOC, "labels": LABEL},
        "autoregressive",
        {"hidden": [8], "conditional": True, "fit": {"max_epochs": 1}},
    ),
    "on another one": (
        {"loc": LOC, "labels": LABEL},
        "realnvp",
        {"base": "gaussian", "hidden": [8], "num_layers": 2, "conditional": True, "fit": {"max_epochs": 1}},
    ),
    "never varies": ({"loc": np.concatenate([LOC, LOC[:, :1] * 0 + 7], 1)}, "gaussian", {}),
    "repeats, sums": ({"loc": np.concatenate([LOC, LOC[:, 1:2], LOC.sum(1, keepdims=True)], 1)}, "gaussian", {}),
    "codes": ({"codes": (LABEL[:, None] + np.arange(4)) % 5}, "bigram", {}),
}


@pytest.mark.parametrize(("arrays", "prior", "settings"), FITS.values(), ids=FITS.keys())
def test_what_is_saved_is_loaded_to_the_bit(
    tmp_path: Path, arrays: dict[str, Any], prior: str, settings: dict[str, Any]
) -> None:
    learned, _ = fit_prior(LatentDataset.of(**arrays), prior, **settings)
    learned.save(tmp_path / "prior")
    loaded = LearnedPrior.load(tmp_path / "prior")
    z = torch.from_numpy(next(iter(arrays.values())))[:20]
    assert torch.equal(loaded.log_prob(z), learned.log_prob(z)) and torch.isfinite(loaded.log_prob(z)).all()
    label = 1 if settings.get("conditional") else None
    drawn = []
    for model in (learned, loaded):
        torch.manual_seed(0)
        drawn.append(model.sample(1203, label))
    assert torch.equal(*drawn) and drawn[0].shape == (1203, *loaded.spec.shape)
    assert loaded.spec == learned.spec and loaded.fractions == (0.1, 0.2)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / PRIOR_FILE).read_bytes() == (tmp_path / "prior" / PRIOR_FILE).read_bytes()
    assert torch.equal(LearnedPrior.load(tmp_path / "again").log_prob(z), learned.log_prob(z))


def test_what_means_harm_inside_of_another_prior_is_refused(tmp_path: Path) -> None:
    small: dict[str, Any] = {"base": {"num_components": 2}, "hidden": [8], "num_layers": 2, "fit": {"max_epochs": 1}}
    fit_prior(LatentDataset.of(LOC), "realnvp", **small)[0].save(tmp_path / "prior")

    def refused(change: Callable[[dict[str, Any]], object], why: str) -> None:
        shutil.copytree(tmp_path / "prior", tmp_path / why)
        rewrite(tmp_path / why, lambda content: change(content["prior"]["base"]))
        with pytest.raises(UnsafeError, match=why):
            LearnedPrior.load(tmp_path / why)

    refused(lambda base: base.update(_target_="os.system"), "os.system")
    refused(lambda base: base.update(wrap=[{"_target_": "builtins.eval"}]), "builtins")
    refused(lambda base: base.update(wrap=["builtins.eval"]), "wrap")
    refused(lambda base: base.pop("wrap"), "no wrap")
    refused(lambda base: base.update(num_components=3), "means")
    refused(lambda base: base.update(more=1), "more")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    fit_prior(LatentDataset.of(LOC), num_components=3)[0].save(tmp_path / "prior")
    return tmp_path / "prior"


HARM: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "another class": ("_target_", lambda content: content["prior"].update(_target_="os.system")),
    "another wrapper": ("wrap|_target_", lambda content: content.update(wrap=["builtins.eval"])),
    "more than there is": (
        "tensors|cannot be built|holds",
        lambda content: content["prior"].update(num_components=10**9),
    ),
    "another shape": ("tensors|cannot be built|holds", lambda content: content["latent"].update(shape=[7])),
    "another key": ("fractions", lambda content: content.update(fractions="all")),
    "another format": ("expost", lambda content: content.update(format="pickle")),
    "another version": ("version", lambda content: content["versions"].update({content["prior"]["_target_"]: 99})),
}


@pytest.mark.parametrize(("reason", "change"), HARM.values(), ids=HARM.keys())
def test_what_means_harm_is_refused(saved: Path, reason: str, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(saved, change)
    with pytest.raises(UnsafeError, match=reason) as refused:
        LearnedPrior.load(saved)
    assert "\n" not in str(refused.value)


def test_what_is_damaged_is_refused(saved: Path) -> None:
    config, weights = saved / CONFIG, saved / PRIOR_FILE
    whole = config.read_text(encoding="utf-8")
    config.write_text(whole.replace('"num_components": 3', '"num_components": 2'), encoding="utf-8")
    with pytest.raises(UnsafeError, match="was edited"):
        LearnedPrior.load(saved)
    config.write_text(whole, encoding="utf-8")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UnsafeError, match=r"sha256|damaged"):
        LearnedPrior.load(saved)
    reseal(saved)
    LearnedPrior.load(saved)
    weights.unlink()
    with pytest.raises(UnsafeError):
        LearnedPrior.load(saved)


def test_folders_that_are_none(saved: Path, tmp_path: Path) -> None:
    learned = LearnedPrior.load(saved)
    before = (saved / CONFIG).read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        learned.save(saved)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "none/prior"):
        with pytest.raises(ValueError) as refused:
            learned.save(place)
        assert "\n" not in str(refused.value)
    assert (saved / CONFIG).read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"prior", "file"}
    (tmp_path / "empty").mkdir()
    learned.save(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"TwoStage\.load|LearnedPrior\.load"):
        TwoStage.load(saved)
    with pytest.raises(ValueError, match="no folder"):
        LearnedPrior.load(tmp_path / "nowhere")


SOURCE = """
import torch
from sklearn.datasets import load_digits
from torch import nn

class Module(nn.Module):
    def __init__(self, first=0):
        super().__init__()
        x = torch.tensor(load_digits().images.reshape(-1, 64) / 16, dtype=torch.float32)
        self.mean = nn.Buffer(x.mean(0))
        components = torch.linalg.svd(x - self.mean, full_matrices=False).Vh
        self.matrix = nn.Parameter(components[first : first + 3].T.contiguous())
    def encode(self, x):
        z = (x.flatten(1) - self.mean) @ self.matrix
        return {"mean": z, "log_std": torch.full_like(z, -2.0)}
    def decode(self, z):
        return (z @ self.matrix.T + self.mean).view(-1, 1, 8, 8)

class Plain:
    def __init__(self, first=0):
        self.inner = Module(first)
    def encode(self, x):
        return self.inner.encode(x)["mean"]
    def decode(self, z):
        return self.inner.decode(z)
"""
RUN = ("debug=fast", "logger=csv", "prior.num_components=3")


def assert_joined(folder: Path, out: Path, own: Any, other: Any, *words: str) -> None:
    """`out` with the user's own object is the model of the run; nothing else is taken for it."""
    (theirs, _), model = stages_of(folder, *words), TwoStage.load(out, autoencoder=own)
    drawn = []
    for sampled in (lambda: theirs.draw(theirs.prior, 30), lambda: model.sample_latents(30)):
        torch.manual_seed(3)
        drawn.append(sampled())
    assert torch.equal(*drawn)
    assert torch.equal(model.decode(drawn[1]), torch.cat(list(theirs.decode(drawn[0]))))
    x: Tensor = next(iter(theirs.parts.batches(theirs.parts.data.test, 8)))[0]
    assert torch.equal(model.encode(x).mean, theirs.vae.encode(x).posterior.mean)
    for wrong, why in ((other, "is another autoencoder"), (None, "autoencoder=YOURS"), (nn.Identity(), "autoencoder")):
        with pytest.raises(ValueError, match=why) as refused:
            TwoStage.load(out, autoencoder=wrong)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"TwoStage\.load"):
        LearnedPrior.load(out)


@pytest.mark.parametrize("name", ["Module", "Plain"])
def test_somebody_elses_autoencoder_is_named_and_not_held(tmp_path: Path, name: str) -> None:
    file = tmp_path / "their.py"
    file.write_text(SOURCE, encoding="utf-8")
    words = (*RUN, "vae=module", f"vae.module={file}:{name}")
    out = exported(tmp_path, *words)
    own: dict[str, Any] = {}
    exec(SOURCE, own)  # as in the user's session
    assert_joined(tmp_path, out, own[name](), own[name](3), *words)
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    assert config["autoencoder"]["weights_sha256"] and str(file) not in json.dumps(config)


def test_a_model_of_diffusers(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL  # slow to import

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    own: Any = AutoencoderKL(1, 1, block_out_channels=(4, 8), latent_channels=2, norm_num_groups=2, **blocks)
    train_a_little(own)
    own.save_pretrained(tmp_path / "kl")
    net = ("debug=fast", "logger=csv", "prior=transformer", "prior.width=8", "prior.depth=1", "prior.num_heads=2")
    words = (*net, "prior.fit.max_epochs=1", "vae=diffusers", f"vae.path={tmp_path / 'kl'}")
    out = exported(tmp_path, *words)
    other = copy.deepcopy(own)
    next(other.parameters()).data += 1e-3
    assert_joined(tmp_path, out, own.eval(), other.eval(), *words)


def train_a_little(net: Any) -> None:
    """Until it explains images of digits better than their mean does."""
    x = torch.tensor(load_digits().images[:, None] / 8 - 1, dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for rows in torch.randint(len(x), (60, 128)):
        optimizer.zero_grad()
        nn.functional.mse_loss(net.decode(net.encode(x[rows]).latent_dist.mean).sample, x[rows]).backward()
        optimizer.step()
