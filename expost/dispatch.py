"""Which word of the user's is done by what; its work is imported when it is asked for, as all of it takes seconds."""

from expost.base.command import Launch
from expost.base.disk import blaming_the_disk
from expost.base.errors import UserError
from expost.config.schema import Config
from expost.ranks.parent import check_ranks
from expost.store.artifacts import Store
from stage1_vae.errors import ExpostError


def run(config: Config, launch: Launch) -> None:
    """Do what `config.stage` says.

    Raises:
        UserError: for everything that is the user's to mend.
    """
    try:
        with blaming_the_disk(config.paths.root):
            do(config, launch)
    except ExpostError as error:
        raise UserError(str(error)) from error


def do(config: Config, launch: Launch) -> None:
    """The same, with the errors of the rooms as they are."""
    check_ranks(config.trainer)
    if config.stage == "compare":
        from expost.compare import run_comparison

        run_comparison(config)
        return
    from expost.job import Run

    job = Run(config, launch, Store(config.paths.root / "store"))
    if config.stage == "plan":
        from expost.plan.command import run_plan

        run_plan(job)
    elif config.stage == "oracle":
        from expost.oracle import run_oracle

        run_oracle(job)
    else:
        from expost import pipeline

        pipeline.check(config, launch) if config.stage == "check" else pipeline.perform(job)
