"""The configuration when nobody has chosen anything, without Hydra and OmegaConf: they take longer to import than many
a prior takes to fit. Files of `conf/` need neither: what few references they hold are between keys of the top level.
"""

from pathlib import Path
from typing import cast

import yaml

from expost.base.places import CONF
from expost.config.schema import Config, Node, checked

NOT_OF_A_JOB = ("hydra", "launcher", "sweep", "debug", "experiment")
"""Groups that say how jobs are run, or change the sections of others."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times as fast, and not everywhere."""


def read_conf(file: str) -> Node:
    """The content of a file of `conf/` that is a mapping, such as `prior/mixture.yaml`."""
    return cast(Node, yaml.load((CONF / file).read_text(encoding="utf-8"), LOADER))


def default_config(seed: int, prior: Node, **changes: Node) -> Config:
    """`conf/config.yaml` with the files that its defaults list names.

    Args:
        seed: of all stages.
        prior: the section of the prior.
        changes: section -> keys of it and their values.

    Raises:
        UserError: a value that its key may not have.
    """
    top = read_conf("config.yaml")
    listed = [item for line in top.pop("defaults") if line != "_self_" for item in line.items()]
    for group, choice in listed:
        if " " not in group and group not in (*NOT_OF_A_JOB, "prior"):
            top[group] = read_conf(str(Path(group) / f"{choice}.yaml"))
    for section, keys in changes.items():
        top[section] |= keys
    top |= {"prior": prior, "seed": seed, "seeds": dict.fromkeys(("vae", "prior", "sample"), seed)}
    return checked({key: value for key, value in top.items() if key in Config.model_fields})
