"""The README of an exported model: what it is, what it was measured at, how to load it."""

from collections.abc import Mapping
from typing import Any

from expost.evaluation import views
from expost.evaluation.report import Report
from expost.evaluation.tables import one_line
from expost.export.learned_prior import LearnedPrior
from expost.export.two_stage import TwoStage
from expost.parts.assembly import LatentParts, Parts
from expost.parts.dataset import dataset_facts, describe
from stage1_vae.data.labels import list_names

CARD = """---
library_name: expost
pipeline_tag: unconditional-image-generation
{license}tags:
- image-generation
- variational-autoencoder
- two-stage
---

# {name}

{what}

{facts}

## How to load it

{use}

Loading reads safetensors and JSON and runs nothing that the folder brings.

## Figures

{figures}

## Where it comes from

{origins}
"""

IMAGES = """```python
from expost import TwoStage

model = {loading}
images = model.sample(64)  # [{shape}] in [0, 1]: means of p(x|z), z ~ the learned prior
```

`model.sample_latents(n)` draws z, `model.decode(z)` turns latents into images, `model.encode(x)` is the posterior
q(z|x). {knobs}`torch.manual_seed` repeats what is drawn, `model.to("cuda")` moves the model. x is what
`model.preprocess(raw, generator)` makes of raw pixels. {bound}"""
LATENTS = """```python
from expost import LearnedPrior

prior = {loading}
z = prior.sample(64)  # [{shape}], in the units of the latents that it was fitted to
```

`prior.log_prob(z)` is log p(z), [N] nats. {knobs}`torch.manual_seed` repeats what is drawn, `prior.to("cuda")` moves
the prior."""
WHOLE = """A two-stage generative model: a VAE, and a prior that was fitted afterwards to what the encoder says of
the training images (the aggregate posterior)."""
BESIDE = """A prior that was fitted to what somebody's autoencoder says of the training images (the aggregate
posterior). The autoencoder itself is not in here: whoever has {name} hands it over, and any other
one is refused by the SHA-256 of its weights."""
ALONE = """A prior that was fitted to latents (the aggregate posterior of an encoder that is not in here)."""


def model_card(
    name: str,
    content: Mapping[str, Any],
    parts: Parts,
    model: TwoStage | LearnedPrior,
    keys: Mapping[str, str],
    figures: Report | None,
    loading: str,
    license: str | None = None,
) -> str:
    """The text of `README.md`.

    Args:
        content: of `config.json`.
        keys: name -> key of what it was made from.
        figures: what the evaluation found out; None: it was not evaluated.
        loading: what a user types to load it.
        license: of the weights, in the hub's short form; None: its owner has not said.
    """
    origins = {what: f"`{key}`" for what, key in keys.items()} | content["made_with"]
    return CARD.format(
        license="" if license is None else f"license: {license}\n",
        name=name,
        what=_kind(content),
        facts=_facts(content, parts, model),
        use=_use(model, loading),
        figures=_measured(figures),
        origins="\n".join(f"- {what}: {words}" for what, words in origins.items()),
    )


def _kind(content: Mapping[str, Any]) -> str:
    """What lies in the folder."""
    if "autoencoder" in content:
        return BESIDE.format(name=content["autoencoder"]["name"])
    return WHOLE if "net" in content else ALONE


def _use(model: TwoStage | LearnedPrior, loading: str) -> str:
    """How it is loaded and used."""
    if isinstance(model, LearnedPrior):
        shape = ", ".join(map(str, ("64", *model.spec.shape)))
        return LATENTS.format(loading=loading, shape=shape, knobs=_knobs(model))
    reason = model.why_no_bound()
    bound = (
        "`model.log_prob_bound(x, num_samples=100)` is an importance-weighted lower bound on log p(x), [B] nats."
        if reason is None
        else f"There is no `log_prob_bound`: {reason}."
    )
    shape = ", ".join(map(str, ("64", *model.image_shape)))
    return IMAGES.format(loading=loading, shape=shape, knobs=_knobs(model), bound=bound)


def _knobs(model: TwoStage | LearnedPrior) -> str:
    """What `sample` takes beside a number, if anything."""
    classes = model.prior.num_classes
    names = model.class_names
    if classes and names == tuple(map(str, range(classes))):
        taken = [f"label={min(3, classes - 1)}` (one class of 0 to {classes - 1})"]
    else:
        taken = [f"label={names[0]!r}` (one class of {list_names(names)})"] if classes else []
    taken += [f"{knob}=...`" for knob in sorted(model.prior.knobs)]
    return f"`sample` also takes {', '.join(f'`{word}' for word in taken)}. " if taken else ""


def _facts(content: Mapping[str, Any], parts: Parts, model: TwoStage | LearnedPrior) -> str:
    rows = {part: _class(content[part]) for part in ("net", "bottleneck", "likelihood", "prior") if part in content}
    rows["prior"] += "".join(f", {target.rsplit('.', 1)[1]}" for target in content["wrap"])
    spec, counts = parts.spec, f"{model.prior.num_parameters:,}"
    what = "latents" if isinstance(parts, LatentParts) else "images"
    rows["trained on"] = f"{parts.data.name}, {len(parts.data.train):,} {what}"
    rows |= {key: words for key, words in describe(dataset_facts(parts.data)).items() if key != "images"}
    if isinstance(model, TwoStage):
        x = parts.of_images.preprocess
        levels = "real numbers" if x.num_levels is None else f"{x.num_levels} levels"
        made = f", {x.binarize} binarisation" * (x.binarize != "none") + ", dequantised" * x.dequantize
        rows["image"] = f"{' x '.join(map(str, model.image_shape))}, {levels}{made}"
    rows["latent"] = f"{' x '.join(map(str, spec.shape))}, {spec.support.value}"
    if "net" in content and isinstance(model, TwoStage):
        counts = f"{sum(p.numel() for p in model.vae.parameters()):,} and {counts} (VAE and prior)"
    rows["parameters"] = counts
    return "\n".join(["| | |", "|---|---|", *(f"| {part} | {_cell(words)} |" for part, words in rows.items())])


def _class(node: Mapping[str, Any]) -> str:
    words = ", ".join(f"{key}={value}" for key, value in node.items() if key != "_target_")
    return f"{node['_target_'].rsplit('.', 1)[1]}({words})"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def _measured(figures: Report | None) -> str:
    if figures is None:
        return "None: it was exported before it was evaluated (`stage=evaluate`)."
    table = [
        "| " + " | ".join(["", *(_cell(views.title(name)) for name in figures.rows)]) + " |",
        "|---" + "|---:" * len(figures.rows) + "|",
        *("| " + " | ".join(map(_cell, [line.label, *line.texts])) + " |" for line in views.lines(figures)),
    ]
    notes = [f"- {note}" for note in [*figures.sentences, *views.notes(figures)]]
    return "\n".join([*table, "", views.legend(figures), "", *notes])
