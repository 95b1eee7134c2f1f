"""The command line: composes the configuration, runs one job or a sweep, and turns mistakes into one line.

torch is imported by a job, never here, so that `--help` and a misspelt key are answered at once.
"""

import os
import re
import sys
import traceback
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from expost.base import scratch
from expost.base.command import COMMAND, SWEEP, Command, remember_program, timestamp, typed_program
from expost.base.disk import FULL
from expost.base.errors import UserError, nearest
from expost.base.places import CONF
from expost.base.runtime import keep_freed_memory, wait_briefly
from expost.base.scratch import stop_message
from expost.base.terminal import be_quiet
from expost.config.schema import Config, validate
from expost.store.housekeeping import keep_house
from expost.sweeps.failures import Failure, next_command, read_failures, record_failure, tidy
from expost.sweeps.launchers import GridSweeper, JoblibLauncher, RayLauncher, register
from expost.sweeps.study import OptunaSweeper
from expost.sweeps.submitit_launcher import SubmititLauncher
from expost.training.wandb_run import set_agent_aside, wandb_mode

Metric = float | tuple[float, ...] | None

register({"joblib_lanes": JoblibLauncher, "submitit": SubmititLauncher, "ray_tasks": RayLauncher}, "hydra/launcher")
register({"optuna_study": OptunaSweeper}, "hydra/sweeper")
register({"basic": GridSweeper}, "hydra/sweeper", max_batch_size=None, params=None)


def run() -> int:
    """Run what the command line says; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach this function instead of Hydra's own printer
    wait_briefly(os.environ)
    os.environ[COMMAND] = f"{timestamp()}-{os.getpid()}"
    os.environ.pop(SWEEP, None)
    set_agent_aside()
    remember_program()
    typed = sys.argv[1:]
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]
    sys.argv[1:] = flags + [word for word in sys.argv[1:] if word not in flags]  # Hydra wants them before or after all
    be_quiet()
    try:
        scratch.begin()
        refuse_what_hydra_would_not(sys.argv[1:])
        _hydra_main()
        failures = read_failures()
        if command := next_command(sys.argv[1:]):
            print(f"{'next':<11}{command}", flush=True)
    except KeyboardInterrupt:
        for failure in read_failures():
            print(failure.line, file=sys.stderr)
        print(stop_message(typed), file=sys.stderr)
        return 130
    except UserError as error:
        failures = [Failure(str(error))]
    except (HydraException, OmegaConfBaseException) as error:
        failures = [Failure(hydra_message(error))]
    except OSError as error:  # Hydra's own folder of a sweep
        failures = [Failure(f"writing {error.filename} failed: {error.strerror}; make room or set paths.root=DIR")]
    finally:
        tidy()
    for failure in failures:
        print(failure.line, file=sys.stderr)
    return min((2 if failure.traceback is None else 1 for failure in failures), default=0)


def run_job(composed: DictConfig) -> Metric:
    """One job, alone or in a sweep: what `sweep.metric` names. A failure is written down and told at the end: one that
    passed through Hydra would end the sweep, or come back with Hydra's own words before it."""
    be_quiet()  # a sweep's worker starts here
    keep_freed_memory()
    command = Command.of(HydraConfig.get())
    try:
        return run_validated(validate(composed), command)
    except SystemExit as error:  # Lightning turns Ctrl-C within a fit into one
        raise KeyboardInterrupt from error
    except UserError as error:
        record_failure(command, str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:  # beside the store: logs, the run's own folder
            where = error.filename or command.sweep_dir or OmegaConf.select(composed, "paths.root", default="runs")
            record_failure(command, f"writing {where} failed: {error.strerror}; make room or set paths.root=DIR")
        else:  # a mistake of the program: the other jobs of a sweep go on
            record_failure(command, f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


_hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_job)


def refuse_what_hydra_would_not(words: list[str]) -> None:
    """Of a flag that Hydra does not have argparse would print its usage before the one line; a group that is null is a
    ValueError in the midst of it.

    Raises:
        UserError: for either.
    """
    for word in words:
        name, _, choice = word.partition("=")
        if (group := name.lstrip("+")) in groups() and "null" in choice.split(","):
            raise UserError(f"{word}: no choice; leave {group}= out, or take one of its {nearest('', choices(group))}")
        if name.startswith("-") and name not in get_args_parser()._option_string_actions:
            raise UserError(f"{word}: unknown flag; overrides have no dashes: {word.lstrip('-')}, and see --help")


def run_validated(config: Config, command: Command) -> Metric:
    if command.sweep_dir is not None and command.sweep_dir.parent.parent != config.paths.root:
        raise UserError(
            f"paths.root={config.paths.root}: a sweep has one; give one value, or repeat the command for each"
        )
    if config.stage == "store":
        keep_house(config)
        return None
    if config.logger.wandb:
        wandb_mode(config.logger)
    from expost import dispatch
    from expost.sweeps.metric import check_metric, read_metric

    check_metric(config)
    dispatch.run(config, command)
    return read_metric(config, command)


def hydra_message(error: Exception) -> str:
    """Hydra's complaint with the remedy that it lacks: the choices, and the nearest key."""
    chain = [str(e) for e in (error, error.__cause__) if e is not None]
    text = "\n".join(chain)
    if isinstance(error, OverrideParseException):
        remedy = "write KEY=VALUE, and quote a value that holds = ( [ { or a comma: 'KEY=\"a=b\"'"
        return f"{error.override}: not an override ({' '.join(error.message.splitlines()[0].split())}); {remedy}"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match.group(1)}: several values make a sweep; add -m, or write one list as [a,b]"
    if match := re.search(r"Could not find '(\w+)/'", text):
        return f"{match.group(1)} has no value; {nearest('', choices(match.group(1)))}"
    if "Could not override ''" in text:
        return "an override has no key; write KEY=VALUE"
    if match := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, choice = match.groups()
        return f"{group}={choice}: no such choice; {nearest(choice, choices(group))}"
    if match := re.search(r"Could not override '([^']+)'|Key '[^']+' is not in struct\s+full_key: (\S+)", text):
        return unknown_key(match.group(1) or match.group(2))
    return " ".join(text.split("\n")[0].split())


def groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def choices(group: str) -> list[str]:
    """Names of the files in a group."""
    files = (CONF / group).rglob("*.yaml")
    return sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in files) or groups()


def unknown_key(key: str) -> str:
    """The first part of a dotted `key` that does not exist, and what may stand there.

    The rest of the command line is left out, but for choices: prior=autoregressive prior.hiden=1 is answered with the
    keys of that prior.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    chosen = [a for a in sys.argv[1:] if (m := re.match(r"(\w+)=\w+$", a)) and m.group(1) in groups()]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node: Any = compose("config", overrides=chosen)
    except HydraException:
        return f"{key}: unknown key; `{typed_program()} --cfg job` prints those that there are"
    for part in key.split("."):
        if not isinstance(node, DictConfig):
            return f"{key}: unknown key; its parent is no section but a value"
        if part not in node:
            return f"{key}: unknown key; {nearest(part, (str(name) for name in node))}"
        node = node[part]
    return f"{key}: cannot be set here; `{typed_program()} --cfg job` prints the configuration"
