"""What can be done about a prior that falls short, possible for how it is fitted, for its latents and for its images;
and about a code that carries next to nothing.

A verdict that names a remedy takes it from here. More steps are no remedy for a prior that counts, nor for a fit whose
held-out figure had stopped getting better.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from expost.config.build import target_class
from expost.config.schema import Node, VAEParts
from expost.evaluation.sections import Estimate, Fitting, LookedAt, Rung
from expost.job import Job
from expost.measure.subject import Subject
from expost.parts.assembly import ImageParts
from expost.parts.gaussian_rule import loses, remedy_of_losing
from expost.parts.priors import in_chart, inner_spec, prior_nodes, wrapper_nodes
from stage1_vae.latents import LatentSpec, Support
from stage2_prior.combined.members import Combined
from stage2_prior.counting import CountingPrior
from stage2_prior.fitting import FitReport
from stage2_prior.prior import GradientPrior
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture

NETWORKS = ("autoregressive", "transformer", "pixelcnn")
SMALLER = ("dropout", "width", "depth", "hidden")
"""Keys of a network that over-fits less when they are changed."""
MOST_COMPONENTS = 10
LIKE_A_MEAN = 0.5
"""A weight of the rate from this share of the numbers of an image on is what a mean over pixels would make of it."""


def fitting_of(job: Job, subject: Subject, name: str, fit: FitReport) -> Fitting:
    """`fitting` of the learned prior of an evaluation."""
    labels = subject.train.labels if subject.prior.min_images_a_class else None
    ladder = tuple(Rung.from_json(row, "ladder") for row in fit.ladder)
    look = tuple(LookedAt.from_json(row, "look") for row in fit.look)
    found = replace(fitting(name, job.config.prior, subject.train.spec, labels, fit), ladder=ladder, look=look)
    if (over := fit.over_gaussian) is None:
        return found
    words = remedy_of_losing(subject.prior, job.config.prior) if loses(over) else ""
    return replace(found, over_gaussian=Estimate(over["gain_nats"], over["error_nats"]), if_losing=words)


def fitting(name: str, node: Node, spec: LatentSpec, labels: Tensor | None, fit: FitReport) -> Fitting:
    """How the prior was fitted, and what can be done where it falls short, in words that follow a semicolon.

    `labels` [N]: of the training images, if each class has a prior of its own; else None.
    """
    cls = target_class(node)
    if issubclass(cls, GradientPrior):
        by, remedy = "steps", more_steps(node, fit)
    elif issubclass(cls, Combined):
        by, remedy = "steps", "give it more seconds" if cls.skips_members else "give it other members"
        remedy += f", prior.{'seconds' if cls.skips_members else 'members'}"
    elif issubclass(cls, Mixture):
        by, remedy = "iterations", more_components(name, node, spec, labels, fit)
    elif issubclass(cls, CountingPrior):
        by, remedy = "counting", f"it only counts, so nothing in it can be trained; {other(name, spec)}"
    elif issubclass(cls, Gaussian):
        by, remedy = "formula", f"it is one Gaussian, fitted exactly; {more_gaussians(labels)}{other(name, spec)}"
    else:
        by, remedy = "formula", f"change its settings, or {other(name, spec)}"
    return Fitting(by, remedy, spec.num_dims)


def more_steps(node: Node, fit: FitReport) -> str:
    """For a prior that is fitted by gradient: longer, unless that would not help."""
    settings = node.get("fit") or {}
    if any("at the limit of" in note for note in fit.notes):
        return f"its fit ended at prior.fit.max_seconds={settings.get('max_seconds'):g}: raise it"
    values = [row["val_nll_nats"] for row in fit.curve if "val_nll_nats" in row]
    best = min(range(len(values)), key=values.__getitem__, default=-1) + 1
    if best < len(values):
        keys = ", ".join(f"prior.{key}" for key in SMALLER if key in node)
        turn = f"a smaller network or more regularisation may ({keys})" if keys else "change its settings"
        return f"its held-out nats were best at epoch {best} of {len(values)}, so more epochs do not help; {turn}"
    keys = " and ".join(f"prior.fit.{key}" for key in ("max_epochs", "max_steps") if settings.get(key) is not None)
    return f"train it longer ({keys or 'prior.fit.max_epochs'})"


def more_components(name: str, node: Node, spec: LatentSpec, labels: Tensor | None, fit: FitReport) -> str:
    """For a mixture: EM until it has converged, then more components while there are images for them."""
    if any("before it converged" in note for note in fit.notes):
        return f"EM ended at prior.max_iter={node['max_iter']} before it converged: raise it"
    if node["num_components"] == "auto":
        return f"it took as many components as held-out latents gain by; {other(name, spec)}"
    few = fewest(labels)
    if node["num_components"] < few:
        where = "" if labels is None else f" (the rarest class has {few:,} training images)"
        return f"give it more than prior.num_components={node['num_components']}{where}, or {other(name, spec)}"
    return f"its rarest class has {few:,} training images, too few for more components; {other(name, spec)}"


def more_gaussians(labels: Tensor | None) -> str:
    """For a single Gaussian: several, where the rarest class has images for them."""
    few = fewest(labels)
    return "" if few < 2 else f"choose prior=mixture prior.num_components={min(MOST_COMPONENTS, few)}, or "


def fewest(labels: Tensor | None) -> int:
    """Images of the rarest class among `labels` [N]; without labels, no bound worth telling."""
    return 2**31 if labels is None else int(torch.unique(labels, return_counts=True)[1].min())


def other(name: str, spec: LatentSpec) -> str:
    """Another prior that models latents of `spec`."""
    if spec.num_dims == 1 and spec.support in (Support.CODES, Support.BITS):
        return "a latent of one code has no other code to depend on, so nothing does better than counting"
    nodes = prior_nodes()
    able = [key for key in NETWORKS if key in nodes and key != name and models(nodes[key], spec)]
    return f"choose a network, prior={able[0]}" if able else "choose another prior"


def models(node: Node, spec: LatentSpec) -> bool:
    """Whether the prior can model latents of `spec`; a network over tokens, whether they are not too many."""
    fits = spec.support is Support.REAL or spec.num_dims <= node.get("max_tokens", spec.num_dims)
    charted = in_chart(node, spec)
    inner = spec if charted is node else inner_spec(wrapper_nodes(charted, spec), spec)
    return fits and target_class(node).check(inner) is None


def for_empty_code(job: Job, subject: Subject) -> str:
    """What to change where the code carries next to nothing: first, what empties a code by itself."""
    parts, config = subject.parts, job.config
    if not isinstance(parts, ImageParts):
        return (
            "look at which array holds the spread and what it is, data.log_std|std|log_var|var, or encode with a VAE "
            "whose rate counts less"
        )
    pixels = math.prod(parts.vae.image_shape)
    if not isinstance(config.vae, VAEParts):
        name = "vae.module" if "module" in config.vae and "path" not in config.vae else "vae.path"
        return (
            f"a mean over its {pixels:,} pixels beside a sum over latents weighs the rate {pixels:,} times, which may "
            f"be the cause: train it with sums over both, and name that one, {name}; or look at vae.second, the spread"
        )
    return for_own_empty_code(config.vae.objective, config.likelihood, pixels, subject.train.spec)


def for_own_empty_code(objective: Node, likelihood: Node, pixels: int, spec: LatentSpec) -> str:
    """The same of a VAE that was trained here, on images of so many numbers."""
    if spec.support is Support.CODES:
        return "try vae=fsq, fewer codes, vae.bottleneck.num_codes, or a larger vae.bottleneck.revive_below"
    causes = [_lighter(objective, pixels, spec.num_dims), _freer(objective, spec.num_dims)]
    said = [words for words in causes if words]
    scale = likelihood.get("scale")
    if not said and scale is not None and not likelihood.get("learned"):
        said = [f"lower likelihood.scale={scale:g}, the larger the less pixels count, or likelihood=gaussian_learned"]
    if not said and "free_nats" in objective:
        said = ["train it longer, trainer.max_epochs, or raise vae.objective.free_nats or vae.objective.warmup_steps"]
    return ", and ".join(said) or "train it longer, trainer.max_epochs, or choose another vae.objective"


def _lighter(objective: Node, pixels: int, num_dims: int) -> str | None:
    """How to weigh the rate less; None: it does not count more than once."""
    if objective.get("beta_norm") is not None:
        betas = {"beta_norm": objective["beta_norm"] * pixels / num_dims}
    else:
        betas = {key: objective[key] for key in ("beta", "alone_beta") if objective.get(key) is not None}
    key = max(betas, key=betas.__getitem__, default="")
    beta = betas.get(key, 0.0)
    if beta <= 1:
        return None
    bound = f"{num_dims / pixels:.3g}" if key == "beta_norm" else "1"
    words = f"lower vae.objective.{key}={objective[key]:g} ({bound} is the bound"
    if beta < LIKE_A_MEAN * pixels:
        return f"{words})"
    return f"{words}; a mean over {pixels:,} pixels beside a sum over latents weighs so, and here both are sums)"


def _freer(objective: Node, num_dims: int) -> str | None:
    """How to change the floor under the rate; None: there is none."""
    floor = objective.get("free_nats") or 0
    if not floor:
        return None
    idle = f"{num_dims} dimensions idle at {floor * num_dims:.3g} nats in all"
    return f"raise vae.objective.free_nats={floor:g}, which lets {idle}"
