"""What a report says of its run, so that `stage=compare` can put it beside others: what was asked, and where it ran."""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expost.base.command import Command
from expost.config.schema import Config, Trainer
from expost.job import Job
from expost.store.artifacts import digest

if TYPE_CHECKING:
    from expost.parts.assembly import Parts

STAGE1_KEYS = ("data", "net", "vae", "likelihood", "trainer")
CIRCUMSTANCES = "circumstances.json"
NEUTRAL_DATA = ("root", "download", "name")
THEN_JOINT = ", then joint"
"""Between the words of a stage 1 and those of the joint training that went on from it."""


def identity(job: Job, parts: "Parts") -> dict[str, str]:
    """What a report says of its run so that it can be compared: for `provenance`.

    `vae_recipe` and `prior_recipe` are the same for runs that differ in their seeds alone; `stage1`, `stage2` and
    `likelihood` are words.
    """
    from expost.parts.assembly import LatentParts  # imports torch, and who only reports does without

    config = job.config
    neutral = config.trainer.NEUTRAL
    data = {k: v for k, v in config.data.items() if k not in NEUTRAL_DATA}
    if data.get("labelled") is None:
        data.pop("labelled", None)  # which reports of before do not name
    stage1: dict[str, Any] = {
        "data": {"fingerprint": parts.data.fingerprint, **data},
        "net": config.net,
        "vae": config.vae_node,
        "likelihood": config.likelihood,
        "trainer": {k: v for k, v in config.trainer.model_dump().items() if k not in neutral},
    }
    words = stage1_words(job.command)
    if config.stage == "joint" or config.joint.use:
        after = config.joint.model_dump(exclude={"use"}, exclude_none=True)
        stage1["joint"] = after | {"prior": config.prior}
        words += f"{THEN_JOINT} ({', '.join(f'{key}={value}' for key, value in after.items())})"
    if isinstance(parts, LatentParts):
        stage1, words = {"data": stage1["data"]}, f"latents of {parts.data.name}"
    vae_recipe = digest(stage1)
    return {
        "group": job.name,
        "stage1": words,
        "stage2": " ".join([job.command.choices.get("prior", "custom"), *_changes(job.command, ("prior",))]),
        "likelihood": likelihood_words(config, parts),
        "vae_recipe": vae_recipe,
        "prior_recipe": digest({"vae": vae_recipe, "prior": config.prior}),
    }


def likelihood_words(config: Config, parts: "Parts") -> str:
    """Family of the likelihood and preprocessing: bounds are comparable where this is the same. Settings of the family,
    such as its scale, make a better or a worse model and not another measure."""
    from expost.parts.assembly import LatentParts

    if isinstance(parts, LatentParts):
        return f"latents of {parts.data.name}"
    images = parts.of_images
    name = str(config.likelihood.get("_target_", "custom")).rsplit(".", 1)[-1]
    if images.frozen is not None:  # which may bring its own
        name = type(images.vae.likelihood).__name__
    name = name.removesuffix("Likelihood")
    pixels = {"none": "intensities", "dynamic": "dynamic binary pixels"}
    made = pixels.get(images.preprocess.binarize, f"{images.preprocess.binarize} binary pixels")
    noise = ", dequantised" if images.preprocess.dequantize else ""
    return f"{name} on {made}{noise}"


def stage1_words(command: Command) -> str:
    """What was chosen for stage 1, and what was changed of it."""
    chosen_groups = [command.choices.get(group, "custom") for group in ("vae", "net")]
    start = [command.choices["experiment"]] if "experiment" in command.choices else ["-".join(chosen_groups)]
    return " ".join([*start, *_changes(command, STAGE1_KEYS)])


def _changes(command: Command, groups: Sequence[str]) -> list[str]:
    """Overrides of keys in `groups` without their group, and of choices where an experiment made them."""
    shown = []
    for word in command.overrides:
        key, _, value = word.lstrip("+").partition("=")
        group, _, rest = key.partition(".")
        neutral = {"data": NEUTRAL_DATA, "trainer": Trainer.NEUTRAL}.get(group, ())
        if group not in groups:
            continue
        if rest and rest not in neutral:
            shown.append(f"{rest.removeprefix('bottleneck.').removeprefix('objective.')}={value}")
        elif not rest and group in ("net", "vae") and "experiment" in command.choices:
            shown.append(f"{group}={value}")
    return shown


def circumstances() -> dict[str, str]:
    """The code and the machine at this moment: kept with figures, whose report may be written elsewhere and later."""
    import torch  # who only reports does without

    return {
        "commit": _commit() or "unknown",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {accelerator()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
