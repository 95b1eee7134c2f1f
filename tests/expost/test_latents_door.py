"""Latents written by hand are as good as encoded ones: the same prior to the bit, and every word of `stage=` ends."""

from pathlib import Path

import numpy as np
import pytest
from command_line import Result, keys, run_here

SPLITS = ("train", "val", "test")
PRIORS = {"gaussian": (), "mixture": ("prior.num_components=5", "prior.max_iter=5")}


def fitted(folder: Path, *words: str) -> bytes:
    """The weights of the one prior that is fitted in `folder`, and then is removed."""
    result = run_here(folder, "stage=prior", "logger=csv", *words)
    assert (result.code, result.err) == (0, ""), result
    (path,) = (folder / "runs/store/prior").glob("[!.]*/prior.safetensors")
    weights = path.read_bytes()
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    return weights


def test_a_prior_of_latents_written_by_hand_is_that_of_encoded_ones_to_the_bit(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    encoding = ("debug=fast", "net.hidden=[16]", "trainer.val_every=2")
    assert run_here(here, "stage=encode", "logger=csv", *encoding).code == 0
    (folder,) = (here / "runs/store/latents").glob("[!.]*")
    names = {"loc": "loc", "log_std": "log_std", "label": "labels"}
    arrays = {f"{s}_{key}": np.load(folder / s / f"{name}.npy") for s in SPLITS for key, name in names.items()}
    np.savez(there / "latents.npz", **arrays)
    for prior, settings in PRIORS.items():
        words = (f"prior={prior}", *settings)
        encoded = fitted(here, *encoding, *words)
        assert fitted(there, "debug=fast", "data=latents", "data.root=latents.npz", *words) == encoded, prior


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with latents.npz: 300 means and standard deviations of four classes."""
    folder = tmp_path_factory.mktemp("vectors")
    labels = np.arange(300) % 4
    loc = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32) + labels[:, None]
    np.savez(folder / "latents.npz", loc=loc, std=np.full_like(loc, 0.3), label=labels)
    return folder


def ask(folder: Path, *words: str) -> Result:
    return run_here(folder, "data=latents", "data.root=latents.npz", "debug=fast", "logger=csv", *words)


def test_what_is_missing_is_made_by_the_command_that_is_named(vectors: Path) -> None:
    refused = ask(vectors, "prior=gaussian", "stage=prior", "upstream=require")
    assert refused.code == 2 and len(refused.lines) == 1 and "stage=encode" in refused.err
    assert ask(vectors, "prior=gaussian", "stage=encode").stages("done in") == ["latents"]
    assert ask(vectors, "prior=gaussian", "stage=prior", "upstream=require").stages("done in") == ["prior"]
    for word in ("vae", "oracle"):
        nothing = ask(vectors, "prior=gaussian", f"stage={word}")
        assert nothing.code == 2 and len(nothing.lines) == 1 and "images" in nothing.err, nothing
    assert len(keys(vectors, "latents")) == 1


def test_a_sweep_over_priors_ends_in_a_comparison(vectors: Path) -> None:
    swept = ask(vectors, "-m", "prior=gaussian,standard_normal")
    assert (swept.code, swept.err) == (0, ""), swept
    assert len(keys(vectors, "latents")) == 1 and len(keys(vectors, "evaluation")) == 2
    compared = run_here(vectors, "stage=compare")
    assert compared.code == 0 and compared.out.splitlines()[1].startswith("latents: 1 learned prior"), compared
