"""Small models, trained and exported by the pipeline, and changed by hand: for tests."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from expost import pipeline
from expost.base.command import Command
from expost.cli import CONF
from expost.config.schema import validate
from expost.export.config import CONFIG, seal
from expost.job import Job
from expost.measure.subject import ImageSubject
from expost.parts.assembly import assemble
from expost.parts.weights import fitted_prior, trained_vae
from expost.store.artifacts import Store
from stage1_vae.latents import LatentDataset
from stage2_prior.priors.standard_normal import StandardNormal

TINY = ("debug=fast", "trainer.val_every=2", "net.hidden=[8]", "vae.bottleneck.latent_dim=3", "logger=csv")


def job(folder: Path, *words: str) -> Job:
    """A quiet run of the real configuration with its store in `folder`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(compose("config", overrides=[f"paths.root={folder}", "trainer.accelerator=cpu", *words]))
    return Job(config, Command(), Store(folder / "store"), quiet=True)


def exported(folder: Path, *words: str) -> Path:
    """The folder of a model that `stage=export` wrote."""
    out = folder / "model"
    pipeline.perform(job(folder, "stage=export", f"export.out={out}", *words))
    return out


def stages_of(folder: Path, *words: str) -> tuple[ImageSubject, Job]:
    """The pipeline's own objects of the same configuration, from its store."""
    run = job(folder, "upstream=require", *words)
    run = replace(run, config=run.config.model_copy(update={"stage": "export"}))
    run, built = assemble(run)
    parts = built.of_images
    made = pipeline.made("prior", run, parts)
    model, density = trained_vae(parts, made["vae"], run.device), fitted_prior(parts, made["prior"], run.device)
    train, test = (LatentDataset.load(made["latents"].path / split) for split in ("train", "test"))
    return ImageSubject(parts, density, StandardNormal(model.spec), train, test, run.device, vae=model), run


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of `config.json` and seal it again, as whoever means harm would."""
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    change(content)
    (folder / CONFIG).write_text(json.dumps(seal(content)), encoding="utf-8")


def reseal(folder: Path) -> None:
    """Make `config.json` agree with the weight files that are there."""

    def facts(content: dict[str, Any]) -> None:
        for name in content["files"]:
            if (folder / name).is_file():
                held = (folder / name).read_bytes()
                content["files"][name] = {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}

    rewrite(folder, facts)
