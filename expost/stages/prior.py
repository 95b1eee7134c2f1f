"""Stage 2: latents -> prior."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expost.config.build import origins, target_class
from expost.config.schema import Config, Node
from expost.forecast.notice import Expectation, prior_parts
from expost.job import Job
from expost.parts.assembly import ImageParts, LatentParts, Parts
from expost.parts.gaussian_rule import hold_against_gaussian
from expost.parts.priors import PER_CLASS, decided, listed_wrappers
from expost.parts.sections import all_held, as_before, held, without
from expost.parts.weights import LEARNED_WEIGHTS, PRIOR_WEIGHTS, fill, histories, weights
from expost.stages.making import Alone, Making, Stage
from expost.store.tensors import layouts, read_tensors
from expost.training.devices import precision_words
from expost.training.progress import counting
from expost.training.tracking import Tracker
from stage1_vae.latents import LatentDataset, Support, constants, dependent_columns
from stage1_vae.latents.look import look_at
from stage1_vae.machine import has_native_bf16
from stage2_prior.combined.members import Combined
from stage2_prior.fitting import FIT_VERSION, FitReport, PriorError
from stage2_prior.labels import LABELS_VERSION
from stage2_prior.priors.learned import Learned

FUNCTIONS_VERSION = 2
"""Of what dependent dimensions are computed by: 2 since weights below rounding are none."""


def fit_prior(making: Making) -> Mapping[str, Any]:
    """`prior.safetensors` and what the fit reported, `fit.json`; of several ranks, the first writes them."""
    job, prior, tracker = making.job, making.parts.prior, making.tracker
    are_kept = isinstance(making.parts, ImageParts) or job.config.data.get("dependent") == "keep"
    look = look_at(making.latents("train"), keeps_dependent=are_kept)
    is_own_code = isinstance(making.parts, ImageParts) and prior.spec.support is Support.CODES
    if look.refusal and not is_own_code:  # of which the verdict says that it is empty
        raise PriorError(look.refusal)
    job.say("prior", look.line)
    if job.config.prior.get("fit", {}).get("precision") == "auto" and has_native_bf16(job.device):
        job.say("prior", precision_words(job.device))
    with counting("prior", job.shows_progress, tracker.log) as log:
        lent: dict[str, Any] = {"log": log} | (of_stage1(making) if prior.needs_encoder else {})
        if isinstance(prior, Learned):
            path = making.inputs["vae"].path
            lent["learned"] = read_tensors(path, LEARNED_WEIGHTS, layouts(prior.inner), None)
        if prior.has_stored_parts:
            lent["fitted_member"] = partial(stored_member, making)
        if prior.looks_at_images and isinstance(making.parts, ImageParts):
            lent["features"] = features_of(making)
        fit_run = job.fit_run(tracker, **lent)
        train, val = making.latents("train"), making.latents("val")
        report = prior.fit(train, val, fit_run)
        report = hold_against_gaussian(report, making.parts, job.config.prior, train, val, fit_run)
        report = replace(report, look=look.rows)
    if isinstance(making.parts, ImageParts):
        said = flatness(making.latents("train"), making.inputs["latents"].path)
        report = replace(report, notes=[*report.notes, *said])
    for note in report.notes:
        job.say("prior", note)
    fitted = weights(prior)
    job.ranks.check_equal(fitted)
    facts = asdict(report) | {"num_parameters": prior.num_parameters}
    if job.ranks.rank == 0:
        save_file(fitted, making.folder / PRIOR_WEIGHTS)
        (making.folder / "fit.json").write_text(json.dumps(facts), encoding="utf-8")
    return {name: facts[name] for name in ("seconds", "val_nll_nats", "num_parameters")}


def flatness(latents: LatentDataset, path: Path) -> list[str]:
    """Whether all of a vector's dimensions together have no density, in words: what was fitted before the images were
    encoded is one of all of them. `path`: of the stored latents, which can be modelled without those."""
    if latents.family != "delta" or len(latents.spec.shape) > 1:
        return []
    num = int(constants(latents).sum()) + len(dependent_columns(latents))
    said = (
        f"{num:,} of {latents.spec.num_dims:,} dimensions never vary, or are sums or repeats of others: a density of "
        "all of them has no bound, so nats say how narrow the prior is; "
        f"data=latents data.root={path} models the others"
    )
    return [said] * (0 < num < latents.spec.num_dims)


def of_stage1(making: Making) -> dict[str, Any]:
    """The encoder and the training images, as fields of a `FitRun`; row i of them is latent i."""
    job, parts = making.job, making.parts.of_images
    vae = copy.deepcopy(making.vae).requires_grad_(False)  # the VAE itself may be trained again
    generator = torch.Generator(job.device).manual_seed(job.config.seeds.prior)

    def images(rows: Tensor) -> Tensor:
        return parts.preprocess(parts.data.train.batch(rows).to(job.device), generator)

    return {"encoder": lambda x: vae.encode(x).posterior, "images": images}


def stored_member(making: Making, member: nn.Module, place: int) -> FitReport:
    """Give `member` the state that its own artifact holds; what its fit reported."""
    artifact = making.inputs[f"{STAGE.name}-{place}"]
    fill(member, artifact, PRIOR_WEIGHTS)
    member.to(making.job.device).eval()
    return histories(None, artifact).fit


def features_of(making: Making) -> Callable[[Tensor], Tensor]:
    """z [N, *latent] -> features [N, F] of the images that they are decoded to, as the judge sees them."""
    from expost.measure.feature_nets import load_feature_net  # few fits look at images
    from expost.measure.subject import decoded_means

    device, data = making.job.device, making.parts.of_images.data
    net = load_feature_net(making.inputs["features"], making.job.config.evaluation.features, device)

    def features(z: Tensor) -> Tensor:
        return torch.cat([net.extract(block) for block in decoded_means(z, making.vae.decode, data, device)])

    return features


def needs(config: Config, parts: Parts) -> tuple[str, ...]:
    """Stage 1, where the fit encodes or decodes; where it looks at images, what the judge looks at them with."""
    looks = parts.prior.looks_at_images and isinstance(parts, ImageParts)
    needs_vae = parts.prior.needs_encoder or isinstance(parts.prior, Learned) or looks
    return ("latents", *["vae"] * needs_vae, *["features"] * looks)


def members_alone(job: Job, parts: Parts) -> list[Alone]:
    """The members of a prior that is made of whole other ones, as jobs of which each fits one of them."""
    if not parts.prior.has_stored_parts:
        return []
    assert isinstance(parts.prior, Combined)
    alone = []
    for node, member in zip(held(job.config.prior), parts.prior.parts, strict=True):
        config = job.config.model_copy(update={"prior": node})
        alone.append(Alone(member.title, replace(job, config=config, whole=job), replace(parts, prior=member)))
    return alone


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a fitted prior."""
    ranks = job.config.trainer.num_ranks if parts.prior.fits_in_ranks else 1
    node = decided(job.config.prior, job.device)
    versions: dict[str, Any] = {}
    for part in all_held(node):  # their sections are in this one
        versions |= origins_of(part)
    versions |= origins_of(node)
    if isinstance(parts, LatentParts) and parts.data.dependent:
        versions["functions"] = FUNCTIONS_VERSION
    if not node.get("conditional"):
        node = without(node, ("conditional", "label_dropout"))
    if not node.get("wrap"):
        node = without(node, ("wrap",))  # the same as no such key
    return {
        "latents": keys["latents"],
        "prior": as_before(node) | ({"fit": job.fit_settings} if "fit" in node else {}),
        "seed": job.config.seeds.prior,
        "versions": versions | {"fit": FIT_VERSION},
        **({"ranks": ranks} if ranks > 1 else {}),
        **({"features": keys["features"]} if "features" in needs(job.config, parts) else {}),
        **{name: key for name, key in keys.items() if name.startswith(f"{STAGE.name}-")},
    }


def origins_of(node: Node) -> dict[str, Any]:
    """Versions of the class that the prior's section `node` names and of its wrappers, those by name that have one."""
    versions, wrappers = origins([node]), listed_wrappers(node)
    if node.get("conditional"):
        if target_class(node).takes_labels:
            versions["labels"] = LABELS_VERSION
        else:
            wrappers.append(("per_class", PER_CLASS))
    for name, wrapper in wrappers:
        own = origins([wrapper])
        versions |= {name: own.pop(wrapper["_target_"])} | own
    return versions


def expected(making: Making) -> list[Expectation]:
    """What a fit takes; members are expected one by one, and what was learned with the VAE takes nothing."""
    if isinstance(making.parts.prior, Combined | Learned):
        return []
    lent = making.job.fit_run(Tracker())
    return prior_parts(making.parts.prior, making.latents("train"), making.latents("val"), lent)


STAGE = Stage(
    name="prior",
    typed="prior",
    needs=needs,
    ingredients=ingredients,
    make=fit_prior,
    expected=expected,
    in_ranks=lambda parts: parts.prior.fits_in_ranks,
    parts_alone=members_alone,
)
