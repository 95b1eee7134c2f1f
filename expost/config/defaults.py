"""The configuration as it is when nobody has chosen anything, without Hydra: for jobs that begin in Python."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from expost.base.places import CONF
from expost.config.schema import Config, Node

NOT_OF_A_JOB = ("hydra", "launcher", "sweep", "debug", "experiment")
"""Groups that say how jobs are run, or change the sections of others."""


def default_config(**sections: Any) -> Config:
    """`conf/config.yaml` with the files that its defaults list names; `sections` take the place of theirs.

    Raises:
        pydantic.ValidationError: a section says what it may not.
    """
    top = cast(DictConfig, OmegaConf.load(CONF / "config.yaml"))
    listed = [
        (str(group), choice) for line in top.pop("defaults") if line != "_self_" for group, choice in line.items()
    ]
    for group, choice in listed:
        if " " not in group and group not in NOT_OF_A_JOB:
            top[group] = OmegaConf.load(CONF / Path(group) / f"{choice}.yaml")
    top.pop("hydra")  # reads variables that only a command line sets
    plain = cast(Node, OmegaConf.to_container(top, resolve=True))
    return Config.model_validate({key: value for key, value in plain.items() if key in Config.model_fields} | sections)
