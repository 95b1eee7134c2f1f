"""The plan where latents come from elsewhere, and where an autoencoder does: beside the run, and of what is only
talked of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import assert_refused, run_here
from exported_model import job

from expost.base.errors import UserError
from expost.plan.inputs import imagine_images
from expost.plan.latents import imagine_latents
from stage1_vae.latents import Support

STAGES = ["data", "encode", "prior", "evaluate"]
MINE = """
import torch

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((), 2.0))

    def encode(self, x):
        mean = self.scale * torch.nn.functional.avg_pool2d(x, 2).flatten(1)
        return mean, torch.full_like(mean, -4.0)

    def decode(self, z):
        return torch.nn.functional.interpolate(z.reshape(-1, 1, 4, 4) / self.scale, scale_factor=2.0)
"""
"""An autoencoder of 8x8 images: means of four pixels."""


def arrays(kind: str) -> dict[str, np.ndarray]:
    """400 latents of a kind."""
    generator, labels = np.random.default_rng(0), np.arange(400) % 4
    loc = generator.normal(size=(400, 5)).astype(np.float32) + labels[:, None]
    if kind == "vectors":
        return {"loc": loc, "std": np.full_like(loc, 0.3), "label": labels}
    if kind == "points":
        return {"loc": loc}
    if kind == "maps":
        return {"loc": loc[:, :4, None, None] + generator.normal(size=(400, 4, 2, 2)).astype(np.float32)}
    return {"codes": 4 * labels[:, None, None] + generator.integers(0, 4, (400, 2, 2))}


def plan_of(folder: Path, *words: str) -> dict[str, Any]:
    result = run_here(folder, *words, "stage=plan", "plan.out=plan.json", "plan.probe_seconds=0.01")
    assert (result.code, result.err) == (0, ""), result
    assert " latents" in result.out or " images" in result.out
    plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return plan


@pytest.mark.parametrize(
    ("kind", "prior"),
    [
        ("vectors", "mixture"),
        pytest.param("points", "gaussian", marks=pytest.mark.slow),
        pytest.param("maps", "transformer", marks=pytest.mark.slow),
        pytest.param("codes", "bigram", marks=pytest.mark.slow),
    ],
)
def test_latents_of_every_kind_are_planned_and_their_files_to_the_byte(tmp_path: Path, kind: str, prior: str) -> None:
    np.savez(tmp_path / "latents.npz", **arrays(kind))  # type: ignore[arg-type]
    words = ["data=latents", "data.root=latents.npz", f"prior={prior}", "debug=fast", "logger=csv"]
    words += ["prior.num_components=3", "prior.max_iter=5"] if prior == "mixture" else []
    words += ["prior.width=16", "prior.depth=1"] if prior == "transformer" else []
    plan = plan_of(tmp_path, *words)
    assert list(plan["stages"]) == STAGES
    assert "samples" in plan["stages"]["evaluate"]["parts"] and plan["stages"]["evaluate"]["seconds"] > 0
    files = plan["stages"]["encode"]["files"]
    assert run_here(tmp_path, *words, "stage=prior").code == 0
    (folder,) = (tmp_path / "runs/store/latents").glob("[!.]*")
    real = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.npy")}
    assert {name: files[name] for name in files if name.endswith(".npy")} == real
    (weights,) = (tmp_path / "runs/store/prior").glob("[!.]*/prior.safetensors")
    assert plan["stages"]["prior"]["files"]["prior.safetensors"] == weights.stat().st_size


def test_an_autoencoder_that_comes_trained_is_planned_as_what_is_still_to_do(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    words = ("vae=module", "vae.module=mine.py:Mine", "debug=fast", "prior.num_components=5", "prior.max_iter=4")
    plan = plan_of(tmp_path, *words, "logger=csv")
    assert plan["stages"]["vae"]["work"] == "the scale of its likelihood, by 1,258 images"
    assert "VAE: 1 parameters." in plan["notes"]
    assert run_here(tmp_path, *words, "logger=csv", "stage=vae").code == 0
    (folder,) = (tmp_path / "runs/store/vae").glob("[!.]*")
    real = {path.name: path.stat().st_size for path in folder.iterdir()}
    files = plan["stages"]["vae"]["files"]
    assert files.keys() == real.keys() and files["model.safetensors"] == real["model.safetensors"]


@pytest.mark.parametrize(
    ("words", "shape", "support", "grids"),
    [
        (("plan.image_shape=[16]",), (16,), Support.REAL, ()),
        (("plan.image_shape=[4,8,6]",), (4, 8, 6), Support.REAL, ()),
        (("plan.image_shape=[4,8]", "data.num_codes=300"), (32,), Support.CODES, ((4, 8),)),
        (("plan.image_shape=[32]", "data.num_codes=300"), (32,), Support.CODES, ((1, 32),)),
    ],
)
def test_latents_that_are_only_talked_of_are_as_many_and_of_the_shape(
    tmp_path: Path, words: tuple[str, ...], shape: tuple[int, ...], support: Support, grids: tuple[Any, ...]
) -> None:
    numbers = ("plan.num_images=50000000", "plan.num_test=70", "plan.num_classes=3")
    data, opening = imagine_latents(job(tmp_path, "data=latents", *numbers, *words).config, tmp_path / "latents")
    assert [len(latents) for latents in data.splits.values()] == [50_000_000, 10_000, 70]
    assert (data.spec.shape, data.spec.support, data.spec.grids) == (shape, support, grids)
    assert data.train.posterior(slice(49_999_998, 50_000_010)).sample().shape == (2, *shape)
    assert data.train.labels is not None and data.train.labels.max() == 2
    assert opening.seconds > 0 and list((tmp_path / "latents").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data=latents", "plan.image_shape=[16,16]"), "one number for data.num_codes"),
        (("data=latents", "plan.image_shape=[4,16,16]", "data.num_codes=8"), "[16,16] of codes"),
        (("plan.image_shape=[16]",), "vectors belong to data=latents"),
    ],
)
def test_a_shape_that_none_has_is_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    config = job(tmp_path, *words, "plan.num_images=1000").config
    with pytest.raises(UserError) as error:
        (imagine_latents if "data=latents" in words else imagine_images)(config, tmp_path / "files")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("maps", (), ("mixture models vectors", "transformer")),
        (
            "vectors",
            ("prior=vamp_expost", "prior.num_components=50"),
            ("data=latents has latents alone", "prior=mixture does without"),
        ),
    ],
)
def test_the_plan_refuses_what_the_run_would(
    tmp_path: Path, kind: str, words: tuple[str, ...], said: tuple[str, str]
) -> None:
    np.savez(tmp_path / "latents.npz", **arrays(kind))  # type: ignore[arg-type]
    before = list(tmp_path.iterdir())
    result = run_here(tmp_path, "data=latents", "data.root=latents.npz", *words, "logger=csv", "stage=plan")
    assert_refused(result, tmp_path, *said, before=before, data_was_read=True)
