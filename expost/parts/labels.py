"""A VAE whose components are to be classes: which labels it may know, and where its components begin.

`data.labelled=N` keeps the labels of N training images, chosen by `seeds.vae`; stage 1 sees no other. The judge still
has all of them.
"""

import math
from functools import partial

import torch
from torch import Tensor

from expost.base.errors import UserError
from expost.evaluation.latents.clusters import count, match
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.parts.decoding import block_size
from expost.training.tracking import Tracker
from stage1_vae.data.images import ImageData, subset
from stage1_vae.latents import LatentDataset
from stage1_vae.objectives.clusters import ClusterELBO
from stage2_prior.em.finite_mixture import FiniteMixture

VERSION = 1
"""Part of the key of a VAE that knows labels; raised whenever other ones are chosen."""
HIDDEN = -1
"""The label of an image whose class is not known."""
MOST_BYTES = 2**30
"""Images of known class are held as the net takes them."""
PLACED_ON = 20_000
"""Training images whose latents components are placed on."""


def hide_labels(labels: Tensor, num: int, num_classes: int, seed: int) -> Tensor:
    """`labels` [N] with all but `num` of them hidden: as many of each class as there are, up to one; int64, on the CPU.

    Which images they are, and which classes have one more, is drawn by `seed` alone.
    """
    generator, labels = torch.Generator().manual_seed(seed), labels.cpu()
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, each in a random order
    counts = torch.bincount(labels, minlength=num_classes)
    turn = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]  # 0: the first of its class
    first = torch.randperm(num_classes, generator=generator)[labels[order]]
    kept = order[(turn * num_classes + first).argsort(stable=True)[:num]]
    known = torch.full_like(labels, HIDDEN)
    known[kept] = labels[kept]
    return known


def check_clusters(job: Job, parts: ImageParts) -> None:
    """Refuse, before any work, what cannot make clusters, and labels that cannot be kept or are of no use.

    Raises:
        UserError: with the remedy.
    """
    num, data, objective = job.config.data.get("labelled"), parts.data, parts.objective
    if isinstance(objective, ClusterELBO):
        check_mixture(objective, data)
    if num is None:
        return
    if not isinstance(num, int) or isinstance(num, bool) or num < 1:
        raise UserError(f"data.labelled={num}: give how many labels to keep, or null for all")
    if not data.num_classes or data.train.labels is None:
        raise UserError(f"data.labelled={num}: {data.name} has no labels; leave it out")
    if parts.objective is None or not parts.objective.uses_labels or parts.objective.prior is None:
        raise UserError(
            f"data.labelled={num}: this VAE makes nothing of labels; use vae=gmvae, whose components are then classes"
        )
    prior = parts.objective.prior
    if not isinstance(prior, FiniteMixture) or prior.num_components != data.num_classes:
        raise UserError(
            f"data.labelled={num}: of {data.num_classes} classes each is one component; set vae.prior.prior=mixture "
            f"vae.prior.num_components={data.num_classes}"
        )
    if job.config.prior.get("conditional"):
        raise UserError(f"data.labelled={num}: prior.conditional=true needs every label; leave one of the two out")
    if job.max_images is None:
        check_number(num, data.train.labels, data.num_classes, math.prod(data.shape))


def check_mixture(objective: ClusterELBO, data: ImageData) -> None:
    """
    Raises:
        UserError: what it does with components, of a prior that has none or has them elsewhere.
    """
    key = "join_after" if objective.join_after else "information_weight" if objective.information_weight else None
    if key is None:
        return
    if not isinstance(objective.prior, FiniteMixture) or objective.prior.needs_encoder:
        raise UserError(f"vae.objective.{key} is of a mixture; set vae.prior.prior=mixture, or vae.objective.{key}=0")
    if objective.information_weight and not data.are_pictures:
        raise UserError(
            f"vae.objective.information_weight turns and shifts pictures, and {data.name} holds none; set it to 0"
        )


def check_number(num: int, labels: Tensor, num_classes: int, num_pixels: int) -> None:
    """
    Raises:
        UserError: more labels than there are, fewer than there are classes, or more images than memory should hold.
    """
    if num > len(labels):
        raise UserError(
            f"data.labelled={num}: there are {len(labels):,} training images; give at most so many, or null"
        )
    if num < num_classes:
        raise UserError(
            f"data.labelled={num}: each of {num_classes} classes needs one; give data.labelled={num_classes} or more"
        )
    if (size := 4 * num * num_pixels) > MOST_BYTES:
        raise UserError(
            f"data.labelled={num}: images of known class are held in memory, and {size / 2**30:.1f} GiB are too many; "
            f"give at most {MOST_BYTES // (4 * num_pixels):,}"
        )


def lend(job: Job, parts: ImageParts) -> None:
    """Give the objective, where it finds clusters, images of known class and what places its components."""
    objective, num = parts.objective, job.config.data.get("labelled")
    if not isinstance(objective, ClusterELBO):
        return
    if num is not None and parts.data.train.labels is not None:
        labels = parts.data.train.labels
        known = hide_labels(labels, min(num, len(labels)), parts.data.num_classes, job.config.seeds.vae)
        rows = (known != HIDDEN).nonzero().squeeze(1)
        generator = torch.Generator(job.device).manual_seed(job.config.seeds.vae)
        x = parts.preprocess(parts.data.train.batch(rows).to(job.device), generator)
        objective.know(x, known[rows].to(job.device))
    if objective.join_after:
        objective.place = partial(place, job, parts, objective)


@torch.no_grad()
def place(job: Job, parts: ImageParts, objective: ClusterELBO) -> None:
    """Fit the components to the latents of training images, as they are now, and go on from there; with labels, the
    component that most images of a class lie in becomes that of the class."""
    prior, vae = objective.prior, parts.vae
    assert isinstance(prior, FiniteMixture)
    vae.eval()
    latents = encoded(job, parts)
    run = job.fit_run(Tracker(), seed=job.config.seeds.vae)
    moving, prior.moving = prior.moving, None
    report = prior.fit(latents, latents, run)
    order = torch.arange(prior.num_components, device=job.device)
    if len(classes := objective.known_classes):
        z = vae.encode(objective.known_images).posterior.mean
        component = prior.log_joint(z).argmax(1)
        matched = match(count(component, classes, prior.num_components, parts.data.num_classes))
        order = matched.argsort().to(job.device)  # component `order[y]` is class y
    prior.moving = moving
    prior.move_to(order)
    vae.train()
    job.say("vae", f"placed {prior.num_components} components on {len(latents):,} latents")
    for note in report.notes:
        job.say("vae", note)


def encoded(job: Job, parts: ImageParts) -> LatentDataset:
    """q(z|x) of training images, evenly spread over them, in memory."""
    images = subset(parts.data.train, PLACED_ON)
    batches = parts.batches(images, block_size(parts.data.shape))
    posteriors = [parts.vae.encode(x).posterior for x, _ in batches]
    names = ("loc", "log_std")
    params = {name: torch.cat([getattr(q, name).float().cpu() for q in posteriors]).numpy() for name in names}
    return LatentDataset(parts.vae.spec, parts.vae.family, params)
