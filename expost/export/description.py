"""What of a configuration rebuilds a prior elsewhere: its part of the `config.json` of an export."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from expost.config.build import versions
from expost.config.schema import Node
from expost.export.config import LABELS
from expost.parts.priors import constructor_node, without, wrapper_nodes
from stage1_vae.latents import LatentSpec
from stage2_prior.labels import LABELS_VERSION


def prior_description(node: Node, spec: LatentSpec) -> dict[str, Any]:
    """Of the prior of the section `node`, over latents of `spec`, without its weights."""
    prior, wrappers = constructor_node(node), wrapper_nodes(node, spec)
    keywords = [without(wrapper, ("_target_",)) for wrapper in wrappers]
    labels = {LABELS: LABELS_VERSION} if prior.get("conditional") else {}
    return {
        "prior": prior,
        "wrap": [wrapper["_target_"] for wrapper in wrappers],
        **({"wrap_keywords": keywords} if any(keywords) else {}),
        "latent": spec.to_json(),
        "versions": versions([prior, *wrappers]) | labels,
    }


def made_with(data: str) -> dict[str, str]:
    """In words; `data`: name of the data set."""
    try:
        own = f"expost {version('expost')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "expost, not installed"
    return {"expost": own, "torch": torch.__version__, "data": data}
