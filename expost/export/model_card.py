"""The README of an exported model: what it is, what it was measured at, how to load it."""

from collections.abc import Mapping
from typing import Any

from expost.evaluation import views
from expost.evaluation.report import Report
from expost.evaluation.tables import one_line
from expost.export.two_stage import TwoStage
from expost.parts.assembly import ImageParts
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

A two-stage generative model: a VAE, and a prior that was fitted afterwards to what the encoder says of
the training images (the aggregate posterior).

{facts}

## How to load it

```python
from expost.export.two_stage import TwoStage

model = TwoStage.load("{address}")
images = model.sample(64)  # [{shape}] in [0, 1]: means of p(x|z), z ~ the learned prior
```

`model.sample_latents(n)` draws z, `model.decode(z)` turns latents into images, `model.encode(x)` is the posterior
q(z|x). {knobs}`torch.manual_seed` repeats what is drawn, `model.to("cuda")` moves the model. x is what
`model.preprocess(raw, generator)` makes of raw pixels. {bound}

Loading reads safetensors and JSON and runs nothing that the folder brings.

## Figures

{figures}

## Where it comes from

{origins}
"""


def model_card(
    name: str,
    content: Mapping[str, Any],
    parts: ImageParts,
    model: TwoStage,
    keys: Mapping[str, str],
    figures: Report | None,
    address: str = "path/to/this/folder",
    license: str | None = None,
) -> str:
    """The text of `README.md`.

    Args:
        content: of `config.json`.
        keys: name -> key of what it was made from.
        figures: what the evaluation found out; None: it was not evaluated.
        address: what `TwoStage.load` takes.
        license: of the weights, in the hub's short form; None: its owner has not said.
    """
    reason = model.why_no_bound()
    bound = (
        "`model.log_prob_bound(x, num_samples=100)` is an importance-weighted lower bound on log p(x), [B] nats."
        if reason is None
        else f"There is no `log_prob_bound`: {reason}."
    )
    origins = {what: f"`{key}`" for what, key in keys.items()} | content["made_with"]
    return CARD.format(
        license="" if license is None else f"license: {license}\n",
        name=name,
        facts=_facts(content, parts, model),
        shape=", ".join(map(str, ("64", *model.image_shape))),
        bound=bound,
        address=address,
        knobs=_knobs(model),
        figures=_measured(figures),
        origins="\n".join(f"- {what}: {words}" for what, words in origins.items()),
    )


def _knobs(model: TwoStage) -> str:
    """What `sample` takes beside a number, if anything."""
    classes = model.prior.num_classes
    names = model.class_names
    if classes and names == tuple(map(str, range(classes))):
        taken = [f"label={min(3, classes - 1)}` (one class of 0 to {classes - 1})"]
    else:
        taken = [f"label={names[0]!r}` (one class of {list_names(names)})"] if classes else []
    taken += [f"{knob}=...`" for knob in sorted(model.prior.knobs)]
    return f"`sample` also takes {', '.join(f'`{word}' for word in taken)}. " if taken else ""


def _facts(content: Mapping[str, Any], parts: ImageParts, model: TwoStage) -> str:
    rows = {part: _class(content[part]) for part in ("net", "bottleneck", "likelihood", "prior")}
    rows["prior"] += "".join(f", {target.rsplit('.', 1)[1]}" for target in content["wrap"])
    x = parts.preprocess
    levels = "real numbers" if x.num_levels is None else f"{x.num_levels} levels"
    made = f", {x.binarize} binarisation" * (x.binarize != "none") + ", dequantised" * x.dequantize
    counts = f"{sum(p.numel() for p in model.vae.parameters()):,} and {model.prior.num_parameters:,}"
    rows |= {
        "trained on": f"{parts.data.name}, {len(parts.data.train):,} images",
        **{what: words for what, words in describe(dataset_facts(parts.data)).items() if what != "images"},
        "image": f"{' x '.join(map(str, model.image_shape))}, {levels}{made}",
        "latent": f"{' x '.join(map(str, model.latent_shape))}, {model.vae.spec.support.value}",
        "parameters": f"{counts} (VAE and prior)",
    }
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
