"""`limits:` of the configuration, which debug=fast and stage=check set: how much work a prior may make at most.

What a prior of long latents costs does not show in the number of images: fifty of 178 x 218 are 120,000 codes, and a
sample of one is 2,475 passes of a network. So limits count steps, and the numbers (codes, bits, dimensions) of latents
that are looked at, here called tokens. They are written into the sections of the prior and of the evaluation, and so
into the keys of what is made.
"""

import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from expost.config.build import target_class
from expost.config.schema import Evaluation, Limits, Node
from stage1_vae.latents import LatentSpec, Support
from stage2_prior.prior import GradientPrior

EM_TOKENS = 128
"""Numbers that a pass of EM looks at in the time in which a network is trained on one."""


def limited_prior(node: Node, spec: LatentSpec, num_images: int, limits: Limits, a_class: bool) -> Node:
    """The section of a prior, its fit cut down.

    Args:
        node: the `prior:` section.
        spec: what one latent is.
        num_images: for training.
        limits: what the whole fit may take.
        a_class: one prior is fitted to each class.

    What is no whole number above 0 stays as it was written: the prior refuses it in its own words. A `max_tokens` of
    null is left out: what was made before there was that key has the same key in the store.
    """
    steps, tokens = limits.steps, limits.tokens
    if issubclass(target_class(node), GradientPrior):
        share = spec.num_classes if a_class else 1
        fit = {key: value for key, value in (node.get("fit") or {}).items() if (key, value) != ("max_tokens", None)}
        for key, limit in (("max_steps", steps), ("max_tokens", tokens)):
            if limit is not None:
                fit[key] = _at_most(max(1, limit // share), fit.get(key))
        return node | {"fit": fit} if fit else node
    restarts = _count(node.get("num_restarts", 1))
    if node.get("max_iter") is None or restarts is None:  # in closed form, or refused later
        return node
    iterations = [] if steps is None else [steps]
    if tokens is not None:
        iterations.append(max(1, EM_TOKENS * tokens // (num_images * spec.num_dims * restarts)))
    return node | {"max_iter": _at_most(min(iterations), node["max_iter"])} if iterations else node


def _at_most(limit: int, asked: Any) -> Any:
    """What was `asked` for, as it was written, or the `limit` where that is lower; None asks for no limit."""
    count = _count(asked)
    return limit if asked is None or (count is not None and count > limit) else asked


def _count(value: Any) -> int | None:
    """The whole number above 0 that a prior reads in `value` (1e3 is one); None: it refuses it."""
    try:
        number = TypeAdapter(int).validate_python(value)
    except ValidationError:
        return None
    return number if number > 0 else None


DENSITY_PASSES = 7_000_000
"""Passes of a network that densities may take in the bounds of an evaluation, beside those of the decoder: those of ten
classes on 10,000 images with 64 samples are 6.4 million."""


def affordable_draws(settings: Evaluation, passes: int, decodes: bool = True) -> int:
    """Of the importance samples of an image, how many a density is taken of that takes so many `passes` of a network:
    as many as `DENSITY_PASSES` allow, or as a decoder takes where there is one and these are more, and at least one."""
    num_images, num_samples = settings.num_bound_images, settings.importance_samples
    allowed = max(DENSITY_PASSES, num_samples * num_images if decodes else 0)
    return max(1, min(num_samples, allowed // (passes * num_images)))


def limited_evaluation(settings: Evaluation, spec: LatentSpec, passes: int, limits: Limits) -> Evaluation:
    """The `evaluation:` section with as many samples and bounds as `limits.tokens` allow; `passes`: of the prior."""
    if limits.tokens is None:
        return settings
    rows = limits.tokens // (spec.num_dims * passes)
    draws = 1 if spec.support is Support.CODES else settings.importance_samples
    num_samples = min(settings.num_samples, max(1, rows))
    num_bounds = min(settings.num_bound_images, max(1, math.ceil(rows / draws)))
    return settings.model_copy(update={"num_samples": num_samples, "num_bound_images": num_bounds})
