"""A search by Optuna whose study is kept in SQLite: the same command continues it, and tries again what failed.

Hydra's plugin for Optuna needs a version below 3, counts its trials anew with each command, and leaves for good what
failed or was under way when a sweep was killed. Search spaces are written as for it, in `hydra.sweeper.params`:
`a,b` and `choice(a,b)`, `range(1,9,2)`, `interval(0.1,1)`, `tag(log, interval(0.1,1))`, `int(interval(2,64))`.

Which study a search is changes with whatever can change a trial's value, or which trials there are. Beside the
configuration that is what the configuration leads to: the images themselves and the versions of algorithms, by the key
of the evaluation that a trial would make. Where a trial may have other images or other classes than the first one, each
choice has a key of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from expost.base.command import Command
from expost.base.errors import UserError
from expost.base.machines import refuse_study
from expost.config.schema import Config, Trainer, validate
from expost.store.artifacts import Store, digest
from expost.store.locks import KeyLock
from expost.sweeps.launchers import Workers, missing_extra
from stage1_vae.errors import ExpostError

RETRY_OF = "retry_of"
RUN = "run"
"""User attributes of a trial: the number of one that it tries again, and the folder of its run."""
NEUTRAL = {"upstream", "name", "paths", "sample", "score", "compare", "store", "export", "oracle", "logger"}
"""Sections that cannot change a figure."""
UNLIMITED = {"steps": None, "tokens": None}


class OptunaSweeper(Sweeper):
    """Args:
    params: override -> its search space, or one value; the command line adds to them and wins.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.own = hydra_context, config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has `sweep.num_trials` that succeeded, or as many were tried as it lacked.

        Raises:
            UserError: Optuna is not installed, the study is in use or damaged, the metric or a space is wrong, there
                are no images, or trials would have several ranks.
        """
        try:
            import optuna
        except ImportError as error:
            raise missing_extra("optuna") from error
        from expost.sweeps.metric import check_metric, direction

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space, fixed = self.split([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        config = self.compose(fixed)
        check_metric(config)
        refuse_study(config.trainer.num_ranks)
        if not config.sweep.metric:
            raise UserError("a search needs sweep.metric=NAME, for example sweep.metric=iwae_nats")
        if not space:
            raise UserError("a search needs a space, for example 'trainer.lr=tag(log,interval(1e-4,1e-2))'")
        identity = fingerprint(space, lambda words: self.compose([*fixed, *words]))
        name = config.sweep.study or f"optuna-{identity}"
        folder = config.paths.root / "sweeps"
        folder.mkdir(parents=True, exist_ok=True)
        with open_study(folder, name) as storage:
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=list(map(direction, config.sweep.metric)),
                load_if_exists=True,
            )
            refuse_another(study, identity, config.sweep.metric)
            retry(study)
            complete = _count(study, "COMPLETE")
            # A study that goes on must not draw again what it drew first.
            seed = config.sweep.seed + len(study.trials)
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            again = _count(study, "WAITING")
            did = f"continues study {name} with {complete} trials" if study.trials else f"begins study {name}"
            did += f", {again} to try again" if again else ""
            print(f"{'study':<11}{did}, up to {config.sweep.num_trials}: {folder / name}.db", flush=True)
            with self.launcher.keep_workers() if isinstance(self.launcher, Workers) else nullcontext():
                self.run(study, space, fixed, config.sweep.num_trials - complete)
            print_best(study, config.sweep.metric)

    def run(self, study: Any, space: Mapping[str, Any], fixed: Sequence[str], num_trials: int) -> None:
        """As many trials as the launcher runs at a time, until there were `num_trials`."""
        from optuna.trial import TrialState

        at_a_time = self.launcher.n_jobs if isinstance(self.launcher, Workers) else 1
        for first in range(0, num_trials, at_a_time):
            trials = [study.ask(dict(space)) for _ in range(min(at_a_time, num_trials - first))]
            words = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            for n, trial in enumerate(trials, start=first):
                trial.set_user_attr(RUN, str(Path(self.own.hydra.sweep.dir).parent / str(n)))
            returns = self.launcher.launch(words, initial_job_idx=first)
            for trial, returned in zip(trials, returns, strict=True):
                if returned.return_value is None:  # told by the job itself
                    study.tell(trial, state=TrialState.FAIL)
                else:
                    study.tell(trial, returned.return_value)

    def split(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The search space, by key, and the overrides that are the same in every trial; a later word wins."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        space: dict[str, Any] = {}
        fixed: dict[str, str] = {}
        for override in parser.parse_overrides(list(words)):
            key = override.get_key_element()
            space.pop(key, None)
            fixed.pop(key, None)
            if override.is_sweep_override():
                space[key] = distribution(override)
            else:
                fixed[key] = f"{key}={override.get_value_element_as_str()}"
        return space, list(fixed.values())

    def compose(self, fixed: Sequence[str]) -> Config:
        """The configuration that all trials have in common."""
        whole = self.context.config_loader.load_sweep_config(self.own, list(fixed))
        return validate(OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"]))


def distribution(override: Override) -> Any:
    """Optuna's word for one of Hydra's.

    Raises:
        UserError: for what it does not know.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    numbers: list[Any] = []
    more: dict[str, Any] = {}
    try:
        if isinstance(value, IntervalSweep):
            numbers, more = [value.start, value.end], {"log": "log" in value.tags}
        elif isinstance(value, RangeSweep) and not value.shuffle:
            numbers, more = list(value.range()), {"step": value.step}
        else:
            choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
            return CategoricalDistribution(choices)
        whole = all(isinstance(number, int) for number in numbers)
        return (IntDistribution if whole else FloatDistribution)(numbers[0], numbers[-1], **more)
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{override.input_line}: no space to search ({error})") from error


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
    drawn = {key: repr(choices) for key, choices in space.items()}
    results = [result_key(compose(words)) for words in kinds_of_trials(space)]
    return digest({"config": whole, "space": drawn, "results": results})[:8]


def kinds_of_trials(space: Mapping[str, Any]) -> list[list[str]]:
    """Overrides of one trial, and of others that differ from it in one group, or in what is read."""
    choices = {key: values.choices if hasattr(values, "choices") else (values.low,) for key, values in space.items()}
    first = {key: values[0] for key, values in choices.items()}
    kinds = [first]
    for key, values in choices.items():
        if "." not in key or key.startswith("data."):
            kinds += [{**first, key: value} for value in values[1:]]
    return [[f"{key}={value}" for key, value in kind.items()] for kind in kinds]


def result_key(config: Config) -> str | None:
    """Key of the evaluation of `config`; None where its parts do not fit together, which each trial will say.

    Raises:
        UserError: the images are not there, or not as they should be.
    """
    from expost import pipeline
    from expost.job import Job
    from expost.parts.assembly import assemble, read_data

    job = Job(config, Command(), Store(config.paths.root / "store"), quiet=True)
    data = read_data(job)
    try:
        return pipeline.keys("evaluation", *assemble(job, data))["evaluation"]
    except ExpostError:
        return None


def refuse_another(study: Any, identity: str, metrics: Sequence[str]) -> None:
    """
    Raises:
        UserError: a study of that name has another fingerprint than `identity`.
    """
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", identity)
        study.set_metric_names(list(metrics))
    elif known != identity:
        raise UserError(
            f"sweep.study={study.study_name} searches something else, or other images or algorithms; give another "
            "sweep.study=NAME"
        )


def retry(study: Any) -> None:
    """Queue what failed and was not tried again, and what was under way when its sweep ended."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # nobody else has the study's lock
    again = {trial.user_attrs.get(RETRY_OF) for trial in study.trials}
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.number not in again and trial.params:
            study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def print_best(study: Any, metrics: Sequence[str]) -> None:
    """The best trial, or those that no other one beats in every metric."""
    best = study.best_trials if _count(study, "COMPLETE") else []
    print(f"{'study':<11}{study.study_name}: {_count(study, 'COMPLETE')} trials; best:", flush=True)
    for trial in sorted(best, key=lambda trial: trial.values):
        figures = ", ".join(f"{name} {value:.5g}" for name, value in zip(metrics, trial.values, strict=True))
        words = " ".join(f"{key}={value}" for key, value in trial.params.items())
        print(f"{'':<11}{figures}: {words} ({trial.user_attrs.get(RUN)})", flush=True)


def _count(study: Any, state: str) -> int:
    return sum(trial.state.name == state for trial in study.trials)


@contextmanager
def open_study(folder: Path, name: str) -> Iterator[Any]:
    """Optuna's storage in a SQLite file, for one command at a time; none of its connections outlives the block.

    Raises:
        UserError: another one has it, or its file cannot be used.
    """
    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    with KeyLock(folder, f".{name}").hold_if_free() as owner:
        if owner is not None:
            raise UserError(
                f"the study {name} is being continued by {owner}; wait for it, or give another sweep.study=NAME"
            )
        try:
            place = (folder / name).resolve()
            storage = RDBStorage(f"sqlite:///{place}.db", engine_kwargs={"poolclass": NullPool})
            try:
                yield storage
            finally:
                storage.remove_session()
                storage.engine.dispose()
        except (SQLAlchemyError, OptunaError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the study in {folder / name}.db cannot be used ({reason}); move it away or mend it"
            ) from error
