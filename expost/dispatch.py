"""Which word of the user's is done by what; its work is imported when it is asked for, as all of it takes seconds."""

from expost.base.command import Command
from expost.base.disk import blaming_the_disk
from expost.base.errors import UserError
from expost.base.runtime import loading
from expost.base.terminal import turn_loggers_down
from expost.config.schema import Config
from expost.job import Job
from expost.store.answers import Question
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
    if config.trainer.num_ranks > 1:
        from expost.ranks.parent import check_ranks

        check_ranks(config.trainer, command)
    if config.stage == "compare":
        from expost.compare import run_comparison

        run_comparison(config)
    elif config.stage == "check":
        check(config, command)
    else:
        work(config, command)


def work(config: Config, command: Command) -> None:
    """What is a job of its own: a plan, the oracle, an answer, or the pipeline."""
    job = Job(config, command, Store(config.paths.root / "store"))
    if config.stage == "plan":
        from expost.plan.command import run_plan

        run_plan(job)
    elif config.stage == "oracle":
        from expost.oracle import run_oracle

        turn_loggers_down()  # which torch has turned up
        run_oracle(job)
    elif config.stage == "answer":
        from expost.questions.answering import answer

        turn_loggers_down()  # which torch has turned up
        answer(job)
    else:
        perform(job)


def perform(job: Job) -> None:
    """What the pipeline does; without it, where the same was asked before and is in the store."""
    question = Question.of(job.config, job.command, job.store)
    if question is not None and (remembered := question.recall()) is not None:
        from expost.stages.report import repeat

        return repeat(job, remembered)
    with loading("torch"):
        from expost import pipeline

    turn_loggers_down()  # which torch has turned up
    answer = pipeline.perform(job)
    if question is not None and answer is not None:
        question.remember(answer)
    return None


def check(config: Config, command: Command) -> None:
    """All stages on two batches each, and a sheet of training images to look at."""
    from expost import pipeline
    from expost.measure.pictures import draw_sheet
    from expost.parts.assembly import ImageParts, assemble, read_data
    from expost.parts.dataset import dataset_line
    from expost.parts.reduced import reduced
    from expost.stages.check import check_all, check_request

    turn_loggers_down()  # which torch has turned up
    with reduced(config, command) as job:
        check_request(job)
        data = read_data(job)
        print(f"{'data':<11}{dataset_line(data)}", flush=True)
        job, parts = assemble(job, given=data)
        check_all(job, parts)
        if isinstance(parts, ImageParts):
            for words in () if parts.frozen is None else parts.frozen.said:
                print(f"{'vae':<11}{words}", flush=True)
            try:
                sheet = draw_sheet(parts, config.paths.root)
            except OSError as error:
                raise UserError(f"cannot write to {config.paths.root}: {error.strerror}; set paths.root=DIR") from error
            question = (
                "upright, whole and called so" if parts.data.are_pictures else "what they should be, in this order"
            )
            print(f"{'pictures':<11}{sheet}: are they {question}?", flush=True)
        pipeline.carry_out(job, parts)
    print("check      everything was built and ran on two batches; nothing else was kept")
