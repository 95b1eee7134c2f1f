"""From the two-stage solution on, together: encoder, decoder and prior ascend the ELBO, each where it stood.

A prior that is fitted afterwards makes the best of a q(z) that was trained towards N(0, I); a VAE that is trained
against that prior no longer pays for being elsewhere (Vahdat, Kreis & Kautz, "Score-based Generative Modeling in Latent
Space", 2021, measure both). What is made is one more artifact, a VAE and the prior learned with it, from which latents
and figures are made as from any other; the two that it began as stay as they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expost.base.errors import UserError
from expost.config.build import build, origins, target_class
from expost.config.schema import Config, Node
from expost.forecast.notice import Expectation, stage1_parts, trial
from expost.job import Job
from expost.parts.assembly import ImageParts, Parts, refuse_learned
from expost.parts.priors import make_prior
from expost.parts.sections import as_before, without
from expost.stages import vae
from expost.stages.making import Making, Stage
from stage1_vae.objective import Objective
from stage1_vae.training.train import TRAIN_VERSION
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior
from stage2_prior.priors.learned import Learned

AFTER = ("sample", "score", "export", "evaluate", "report")
"""Words of `stage=` that may be asked of what the joint training has made."""
JOINT_VERSION = 1
"""Part of the key; raised whenever its results change."""


def is_asked(config: Config) -> bool:
    """Whether what is asked for is of the two stages together."""
    return config.stage == "joint" or (config.joint.use and config.stage in AFTER)


def check_joint(job: Job, parts: Parts) -> None:
    """Refuse, before any work, what cannot go on together.

    Raises:
        UserError: there is no VAE of ours, or no gradient reaches the prior.
    """
    if not (isinstance(parts, ImageParts) and isinstance(parts.vae, VAE) and parts.objective is not None):
        raise UserError(
            "stage=joint trains encoder, decoder and prior together, and this autoencoder is not trained here"
        )
    if isinstance(parts.prior, Learned):
        raise UserError(
            "stage=joint: prior=learned was trained together with the VAE already; raise trainer.max_epochs, or give a "
            "prior that is fitted afterwards, such as prior=mixture"
        )
    if job.config.trainer.num_ranks > 1:
        raise UserError("stage=joint trains in one process; set trainer.devices=1 trainer.num_nodes=1")
    refuse_learned(parts.prior, target_class(job.config.prior).__name__, parts.objective, parts.vae, "prior")


def joint_ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change them, beside the two artifacts that they began as."""
    made_of = vae.vae_ingredients(training_job(job), parts, keys)
    return {
        "vae": keys["vae"],
        "prior": keys["prior"],
        "training": without(made_of, ("net", "vae", "likelihood")) | {"objective": objective_node(job.config)},
        "versions": origins([job.config.prior]) | {"joint": JOINT_VERSION, "train": TRAIN_VERSION},
    }


def train_jointly(making: Making) -> Mapping[str, Any]:
    """The files of a VAE that has learned its prior, `expost.stages.vae.train_vae`."""
    job, parts = making.job, making.parts.of_images
    autoencoder, prior = making.vae, making.prior
    assert isinstance(autoencoder, VAE)
    trained = replace(parts, vae=autoencoder.train(), objective=joint_objective(job.config, prior))
    return vae.train_vae(replace(making, job=training_job(job), parts=trained))


def expected(making: Making) -> list[Expectation]:
    """What it takes, with the fitted prior in its place."""
    objective = joint_objective(making.job.config, trial(making.prior))
    parts = replace(making.parts.of_images, objective=objective)
    return [
        replace(part, remedy=part.remedy.replace("trainer.", "joint."))
        for part in stage1_parts(training_job(making.job).config.trainer, parts)
    ]


def training_job(job: Job) -> Job:
    """The job whose trainer is that of the joint training."""
    changes = job.config.joint.model_dump(exclude={"use"})
    return replace(job, config=job.config.model_copy(update={"trainer": job.config.trainer.model_copy(update=changes)}))


def joint_objective(config: Config, prior: Prior) -> Objective:
    objective: Objective = build("vae.objective", objective_node(config))
    objective.prior = prior
    return objective


def objective_node(config: Config) -> Node:
    """What is minimised: what stage 1 has minimised at its end, when nothing warms up any more."""
    node = as_before(config.own_vae.objective)
    return node | {name: 0 for name in ("warmup_steps", "join_after") if name in node}


def after_joint(job: Job, parts: ImageParts) -> tuple[Job, ImageParts]:
    """The job and its parts from there on, where the prior is what was learned."""
    learned = job.config.prior
    node = {"_target_": f"{Learned.__module__}.{Learned.__qualname__}", "prior": learned}
    prior = make_prior(node, parts.spec, len(parts.data.train), job.config.seeds.prior, job.device)
    return replace(job, config=job.config.model_copy(update={"prior": node})), replace(parts, prior=prior)


STAGE = Stage(
    name="joint",
    typed="joint",
    needs=lambda config, parts: ("vae", "latents", "prior"),
    ingredients=joint_ingredients,
    make=train_jointly,
    expected=expected,
    reads_images=True,
)
