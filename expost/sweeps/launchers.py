"""Jobs of a sweep in processes of their own: joblib's pool, submitit (SLURM, or this machine) and Ray.

Hydra has plugins for these three. They end the sweep with the first worker that is killed, and the night's other jobs
with it; here a job whose process died is one failed job. Each job brings its folder and the environment that it needs,
so that it finds the sweep and the store from any process and any host that sees the same files.
"""

import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from expost.base.command import COMMAND, PROGRAM, SWEEP, Command, sweep_dir
from expost.base.errors import UserError
from expost.base.places import python_path
from expost.base.runtime import WAITING
from expost.base.streams import open_streams
from expost.ranks.messages import num_cores
from expost.sweeps.failures import record_failure

MOST_COMPOSED = 100
"""Configurations of jobs that wait in memory for their turn, some hundred KiB each."""
TRAVELS = (COMMAND, SWEEP, PROGRAM, "HYDRA_FULL_ERROR", *WAITING, "PYTHONWARNINGS", "WANDB_MODE")
"""Environment variables that every job needs and not every worker inherits."""


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, as it is sent to a worker.

    Attributes:
        context, task, config, overrides, number, singletons: what Hydra needs to run it.
        folder: where the command was typed.
        environment: variables that are set in the worker.
    """

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    overrides: Sequence[str]
    number: int
    singletons: Mapping[Any, Any]
    folder: str = field(default_factory=os.getcwd)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> JobReturn:
        os.chdir(self.folder)
        os.environ.update(self.environment)
        open_streams()
        setup_globals()
        Singleton.set_state(dict(self.singletons))
        config = self.context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


Outcome = JobReturn | str
"""What a job returned, or why its process ended without an answer."""


class SweepFolder(Callback):
    """Tells the jobs where their sweep is, before the first of them starts; named in conf/config.yaml."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        os.environ[SWEEP] = str(Path(config.paths.root) / "sweeps" / os.environ[COMMAND])


class Workers(Launcher):
    """Args:
    n_jobs: at a time.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self._is_open = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.own = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One return a job; of a lost one the value is None and the reason is told at the end.

        Raises:
            UserError: the launcher's package is not installed.
        """
        os.environ["PYTHONPATH"] = python_path()  # workers import this project
        environment = {name: os.environ[name] for name in (*TRAVELS, "PYTHONPATH") if name in os.environ}
        environment |= self.threads()
        state = Singleton.get_state()
        jobs = [
            SweepJob(self.context, self.task, self.own, words, initial_job_idx + num, state, environment=environment)
            for num, words in enumerate(job_overrides)
        ]
        with self.keep_workers():
            return [_job_return(job, outcome) for job, outcome in zip(jobs, self.run(jobs), strict=True)]

    @contextmanager
    def keep_workers(self) -> Iterator[None]:
        """The same workers for all launches inside the block."""
        if self._is_open:
            yield
            return
        self.start()
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False
            self.stop()

    @abstractmethod
    def start(self) -> None:
        """
        Raises:
            UserError: the launcher's package is not installed.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the workers, and whatever they are at."""

    def threads(self) -> dict[str, str]:
        """Environment variables that share this machine's cores out to the jobs, unless the user has set them."""
        name = "OMP_NUM_THREADS"
        return {} if name in os.environ else {name: str(max(1, num_cores() // self.n_jobs))}

    @abstractmethod
    def run(self, jobs: Sequence[SweepJob]) -> Sequence[Outcome]:
        """What became of each job, in order."""


def _job_return(job: SweepJob, outcome: Outcome) -> JobReturn:
    if isinstance(outcome, JobReturn):
        return outcome
    command = Command(overrides=tuple(job.overrides), is_sweep=True, sweep_dir=sweep_dir(), job_number=job.number)
    record_failure(command, f"{outcome}; the same command tries it again")
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)


def run_in_threads(num: int, jobs: Sequence[SweepJob], run: Callable[[SweepJob], Outcome]) -> list[Outcome]:
    """`run` on every job, in `num` threads that each wait for one worker at a time."""
    threads = ThreadPoolExecutor(min(num, len(jobs)))
    futures = [threads.submit(run, job) for job in jobs]
    try:
        return [future.result() for future in futures]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # Ctrl-C: what still runs ends with its worker, see `stop`


class JoblibLauncher(Workers):
    """Processes of joblib's pool (loky), which are used again: torch is imported once a worker, not once a job.

    Each worker is a pool of one. In a common pool the death of one worker takes the jobs of all others with it, and
    nobody can say whose fault it was.
    """

    def start(self) -> None:
        from joblib.externals.loky import ProcessPoolExecutor  # before the threads: two that import it at once fail

        self.make_pool = ProcessPoolExecutor
        self.free: list[Any] = []
        self.pools: list[Any] = []

    def stop(self) -> None:
        for pool in self.pools:
            pool.shutdown(kill_workers=True)

    def run(self, jobs: Sequence[SweepJob]) -> Sequence[Outcome]:
        return run_in_threads(self.n_jobs, jobs, self._in_a_pool)

    def _in_a_pool(self, job: SweepJob) -> Outcome:
        try:
            pool = self.free.pop()
        except IndexError:
            pool = self.make_pool(max_workers=1)
            self.pools.append(pool)
        try:
            returned: JobReturn = pool.submit(job).result()
        except BrokenProcessPool as error:
            return f"its process was killed{_signal(str(error))}"
        self.free.append(pool)
        return returned


def _signal(words: str) -> str:
    name = next((sign.name for sign in signal.Signals if sign.name in words), None)
    memory = ", which is what Linux does when memory runs out" if name == "SIGKILL" else ""
    return f" by {name}{memory}" if name else ""


def missing_extra(name: str) -> UserError:
    """What to say where the package `name`, which is an extra of that name, is not there."""
    return UserError(f"{name} is not installed; pip install 'expost[{name}]', in a checkout pip install -e '.[{name}]'")


class ComposedOnce:
    """Hydra's config loader, which hands out once more what it composed for a look at it.

    A grid's jobs are all composed before the first one starts, so that a mistake in any of them is seen, and then
    composed again, which takes as long as all else that an unchanged job does.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        words = tuple(sweep_overrides)
        if words in self.composed:
            return self.composed.pop(words)  # the job writes into it
        config: DictConfig = self.loader.load_sweep_config(master_config, sweep_overrides)
        if len(self.composed) < MOST_COMPOSED:
            self.composed[words] = config
        return config


class GridSweeper(Sweeper):
    """Hydra's grid of jobs. Where they run in this process, each is composed once; others compose in their workers.

    Args:
        max_batch_size, params: as Hydra's.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        # Hydra imports its plugins anew when it looks for them, which is after this file was imported.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        self.grid = BasicSweeper(max_batch_size, params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        self.grid.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if isinstance(self.grid.launcher, BasicLauncher):
            once: Any = ComposedOnce(hydra_context.config_loader)
            self.grid.hydra_context = self.grid.launcher.hydra_context = replace(hydra_context, config_loader=once)

    def sweep(self, arguments: list[str]) -> Any:
        return self.grid.sweep(arguments)


def register(plugins: Mapping[str, type[Plugin]], group: str, **settings: Any) -> None:
    """Make plugins of this project known to Hydra, as `GROUP: NAME` of a defaults list.

    Hydra takes plugins from the package `hydra_plugins` alone; these keep their place in the project's folders, under a
    name in that package. `settings`: keys of their sections beside the target, and what they are unless one is set.
    """
    for name, plugin in plugins.items():
        full_name = f"hydra_plugins.expost.{plugin.__name__}"
        Plugins.instance().class_name_to_class[full_name] = plugin
        ConfigStore.instance().store(
            group=group, name=name, node={"_target_": full_name, **settings}, provider="expost"
        )


class RayLauncher(Workers):
    """Jobs of a sweep as tasks of Ray: the plugin that Hydra once had needs boto3, and so a python-dateutil below 3.

    Args:
        n_jobs: at a time.
        address: of a running cluster; None: start a small one here, and stop it in the end.
        cpus_per_job, gpus_per_job: what Ray keeps free for each.
    """

    def __init__(self, n_jobs: int, address: str | None, cpus_per_job: float, gpus_per_job: float) -> None:
        super().__init__(n_jobs)
        self.address = address
        self.resources: dict[str, Any] = {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job}

    def threads(self) -> dict[str, str]:
        return {}  # Ray says how many

    def start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # what two jobs say is not one thing said twice
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray") from error
        cluster: dict[str, Any] = {"address": self.address, "logging_level": "error"}
        if self.address is None:
            cluster["num_cpus"] = max(1, round(self.n_jobs * self.resources["num_cpus"]))
            cluster["object_store_memory"] = 80 * 2**20  # jobs hand over files; this is about the least that Ray takes
            cluster["include_dashboard"] = False
        ray.init(**cluster)

    def stop(self) -> None:
        import ray

        ray.shutdown()

    def run(self, jobs: Sequence[SweepJob]) -> Sequence[Outcome]:
        import ray

        call: Any = ray.remote(max_retries=0, **self.resources)(lambda job: job())

        def on_ray(job: SweepJob) -> Outcome:
            try:
                return ray.get(call.remote(job))
            except ray.exceptions.RayError as error:
                return f"its process was killed or never started ({type(error).__name__})"

        return run_in_threads(self.n_jobs, jobs, on_ray)
