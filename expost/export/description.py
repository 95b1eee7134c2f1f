"""What of a configuration rebuilds a prior elsewhere: its part of the `config.json` of an export."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from expost.config.build import versions
from expost.config.schema import Node
from expost.export.config import LABELS, TITLE, WRAP
from expost.parts.priors import constructor_node, inner_spec, prior_nodes, wrapper_nodes
from expost.parts.sections import all_held, title_of, with_held, without
from stage1_vae.latents import LatentSpec
from stage2_prior.labels import LABELS_VERSION


def prior_description(node: Node, spec: LatentSpec) -> dict[str, Any]:
    """Of the prior of the section `node`, over latents of `spec`, without its weights."""
    wrappers, parts = wrapper_nodes(node, spec), [node, *all_held(node)]
    keywords = [without(wrapper, ("_target_",)) for wrapper in wrappers]
    inner = inner_spec(wrappers, spec)
    prior = with_held(constructor_node(node), lambda part: held_description(part, inner))
    labels = {LABELS: LABELS_VERSION} if any(part.get("conditional") for part in parts) else {}
    return {
        "prior": prior,
        "wrap": [wrapper["_target_"] for wrapper in wrappers],
        **({"wrap_keywords": keywords} if any(keywords) else {}),
        "latent": spec.to_json(),
        "versions": versions([*parts, *wrappers, *held_wrappers(prior)]) | labels,
    }


def held_description(node: Node, spec: LatentSpec) -> Node:
    """The same of a prior that another one holds, in one section: its wrappers are in it, and what it is called."""
    wrappers = wrapper_nodes(node, spec)
    inner = inner_spec(wrappers, spec)
    prior = with_held(constructor_node(node), lambda part: held_description(part, inner))
    return prior | {WRAP: wrappers, TITLE: title_of(node, prior_nodes())}


def held_wrappers(described: Node) -> list[Node]:
    """The wrappers of all priors that a described one holds."""
    return [wrapper for part in all_held(described) for wrapper in part[WRAP]]


def made_with(data: str) -> dict[str, str]:
    """In words; `data`: name of the data set."""
    try:
        own = f"expost {version('expost')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "expost, not installed"
    return {"expost": own, "torch": torch.__version__, "data": data}
