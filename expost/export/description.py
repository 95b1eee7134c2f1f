"""What of a configuration rebuilds a prior elsewhere: its part of the `config.json` of an export."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from expost.config.build import versions
from expost.config.schema import Node
from expost.export.config import LABELS
from expost.parts.priors import change_held, constructor_node, held_nodes, without, wrapper_nodes
from stage1_vae.latents import LatentSpec
from stage2_prior.labels import LABELS_VERSION


def prior_description(node: Node, spec: LatentSpec) -> dict[str, Any]:
    """Of the prior of the section `node`, over latents of `spec`, without its weights."""
    sections = [node, *held_nodes(node)]
    wrappers = [wrapper for section in sections for wrapper in wrapper_nodes(section, spec)]
    labels = (
        {LABELS: LABELS_VERSION} if any(constructor_node(section).get("conditional") for section in sections) else {}
    )
    return {
        **in_wrappers(node, spec),
        "latent": spec.to_json(),
        "versions": versions([*sections, *wrappers]) | labels,
    }


def in_wrappers(node: Node, spec: LatentSpec) -> dict[str, Any]:
    """A prior, its wrappers, and within it the same of each that it holds."""
    wrappers = wrapper_nodes(node, spec)
    keywords = [without(wrapper, ("_target_",)) for wrapper in wrappers]
    return {
        "prior": change_held(constructor_node(node), lambda section: in_wrappers(section, spec)),
        "wrap": [wrapper["_target_"] for wrapper in wrappers],
        **({"wrap_keywords": keywords} if any(keywords) else {}),
    }


def made_with(data: str) -> dict[str, str]:
    """In words; `data`: name of the data set."""
    try:
        own = f"expost {version('expost')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "expost, not installed"
    return {"expost": own, "torch": torch.__version__, "data": data}
