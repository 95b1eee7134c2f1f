"""Which study a search is: changes with whatever can change a trial's value, or which trials there are.

Beside the configuration that is what the configuration leads to: the images themselves and the versions of algorithms,
by the key of the evaluation that a trial would make. Where a trial may have other images or other classes than the
first one, each choice has a key of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expost.base.command import Launch
from expost.base.errors import UserError
from expost.config.schema import Config, Trainer
from expost.store.artifacts import digest
from stage1_vae.errors import ExpostError

NEUTRAL = {"upstream", "name", "paths", "sample", "compare", "store", "export", "oracle", "logger"}
"""Sections that cannot change a figure."""
UNLIMITED = {"steps": None, "tokens": None}


def fingerprint(space: Mapping[str, Any], compose: Callable[[Sequence[str]], Config]) -> str:
    """The study's: eight hexadecimal digits.

    Args:
        space: override -> what it is drawn from, in Optuna's words.
        compose: the configuration with overrides beside those that all trials share.

    Raises:
        UserError: there are no images to look at.
    """
    shared = compose([])
    whole = {k: v for k, v in shared.model_dump(mode="json").items() if k not in NEUTRAL}
    whole["trainer"] = {k: v for k, v in whole["trainer"].items() if k not in Trainer.NEUTRAL}
    whole["sweep"] = whole["sweep"]["metric"]
    for section, key in ((whole, "limits"), (whole["prior"].get("fit") or {}, "max_tokens")):
        if section.get(key) in (None, UNLIMITED):
            section.pop(key, None)  # a study from before there were limits goes on
    drawn = {key: repr(each) for key, each in space.items()}
    results = [result_key(compose(words)) for words in kinds_of_trials(space)]
    return digest({"config": whole, "space": drawn, "results": results})[:8]


def kinds_of_trials(space: Mapping[str, Any]) -> list[list[str]]:
    """Overrides of one trial, and of others that differ from it in one group, or in what is read."""
    first = {key: each.choices[0] if hasattr(each, "choices") else each.low for key, each in space.items()}
    kinds = [first]
    for key, each in space.items():
        if hasattr(each, "choices") and ("." not in key or key.startswith("data.")):
            kinds += [{**first, key: choice} for choice in each.choices[1:]]
    return [[f"{key}={value}" for key, value in kind.items()] for kind in kinds]


def result_key(config: Config) -> str | None:
    """Key of the evaluation of `config`; None where its parts do not fit together, which each trial will say.

    Raises:
        UserError: the images are not there, or not as they should be.
    """
    from expost import pipeline
    from expost.job import Run
    from expost.parts.assembly import assemble, read_images
    from expost.store.artifacts import Store
    from stage1_vae.data.images import DataError

    job = Run(config, Launch(), Store(config.paths.root / "store"), quiet=True)
    try:
        images = read_images(job)
    except DataError as error:
        raise UserError(str(error)) from error
    try:
        return pipeline.keys("evaluation", *assemble(job, images))["evaluation"]
    except ExpostError:
        return None
