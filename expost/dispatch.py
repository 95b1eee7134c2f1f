"""Which word of the user's is done by what."""

from expost import pipeline
from expost.base.command import Command
from expost.base.disk import blaming_the_disk
from expost.base.errors import UserError
from expost.compare import run_comparison
from expost.config.schema import Config
from expost.job import Run
from expost.oracle import run_oracle
from expost.plan.command import run_plan
from expost.ranks.parent import check_ranks
from expost.store.artifacts import Store
from stage1_vae.errors import ExpostError


def run(config: Config, command: Command) -> None:
    """Do what `config.stage` says.

    Raises:
        UserError: for everything that is the user's to mend.
    """
    try:
        with blaming_the_disk(config.paths.root):
            do(config, command)
    except ExpostError as error:
        raise UserError(str(error)) from error


def do(config: Config, command: Command) -> None:
    """The same, with the errors of the rooms as they are."""
    check_ranks(config.trainer, command)
    if config.stage == "check":
        pipeline.check(config, command)
    elif config.stage == "compare":
        run_comparison(config)
    elif config.stage == "plan":
        run_plan(Run(config, command, Store(config.paths.root / "store")))
    elif config.stage == "oracle":
        run_oracle(Run(config, command, Store(config.paths.root / "store")))
    else:
        pipeline.perform(Run(config, command, Store(config.paths.root / "store")))
