"""The command line: composes the configuration, runs one job or a sweep, and turns mistakes into one line.

torch is imported by a job, never here, so that `--help` and a misspelt key are answered at once.
"""

import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from orchestration.errors import UserError, nearest
from orchestration.launch import Failure, Launch, failures, forget_failures, record_failure, timestamp
from orchestration.schema import Config, validate

CONF = Path(__file__).resolve().parent.parent / "conf"
USER_ERROR = 2


def main() -> int:
    """Run what the command line says; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach this function instead of Hydra's own printer
    # Threads that spin at a barrier while another process holds their core make a small step a hundred times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["EXPOST_LAUNCH"] = timestamp()
    os.environ["EXPOST_FAILURES"] = tempfile.mkdtemp(prefix="expost-")
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]
    sys.argv[1:] = flags + [word for word in sys.argv[1:] if word not in flags]  # Hydra wants them before or after all
    be_quiet()
    try:
        _hydra_main()
        told = failures()
    except KeyboardInterrupt:
        print("stopped; the same command continues with the first stage that is not finished", file=sys.stderr)
        return 130
    except (HydraException, OmegaConfBaseException) as error:
        told = [Failure(hydra_message(error))]
    finally:
        forget_failures()
    for failure in told:
        print(failure.line, file=sys.stderr)
    if not told:
        return 0
    return USER_ERROR if all(failure.traceback is None for failure in told) else 1


def be_quiet() -> None:
    """No warning, tip or deprecation message of a library reaches the user of a run."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # worker processes
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric", "torch", "wandb", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(composed: DictConfig) -> None:
    """One job, alone or in a sweep. A failure is written down and told at the end: one that passed through Hydra would
    end the sweep, or come back with Hydra's own words before it."""
    be_quiet()  # a sweep's worker starts here
    launch = Launch.of(HydraConfig.get())
    try:
        run(validate(composed), launch)
    except UserError as error:
        record_failure(launch, str(error))
    except Exception as error:
        record_failure(launch, f"{type(error).__name__}: {error}", traceback.format_exc())


def run(config: Config, launch: Launch) -> None:
    import pipeline

    be_quiet()  # Lightning turns its own logger up when it is imported
    pipeline.run(config, launch)


def hydra_message(error: Exception) -> str:
    """Hydra's complaint with the remedy that it lacks: the choices, and the nearest key."""
    chain = [str(e) for e in (error, error.__cause__) if e is not None]
    text = "\n".join(chain)
    if found := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, choice = found.groups()
        return f"{group}={choice}: no such choice; {nearest(choice, choices(group))}"
    if found := re.search(r"Could not override '([^']+)'|In '[^']+': Could not find .*'([^']+)'", text):
        key = found.group(1) or found.group(2)
        return f"{key}: unknown key; {nearest(key.split('.')[-1], siblings(key))}"
    if found := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text):
        key = found.group(2)
        return f"{key}: unknown key; {nearest(found.group(1), siblings(key))}"
    return " ".join(text.split("\n")[0].split())


def groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def choices(group: str) -> list[str]:
    """Names of the files in a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) or groups()


def siblings(key: str) -> list[str]:
    """Keys that may stand where `key` stands, in the configuration without overrides."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    parent, _, _ = key.rpartition(".")
    # The sweeper's words are kept so that prior=autoregressive prior.hiden=1 looks among the keys of that prior.
    chosen = [a for a in sys.argv[1:] if (m := re.match(r"(\w+)=\w+$", a)) and m.group(1) in groups()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=chosen)
    node = OmegaConf.select(composed, parent) if parent else composed
    return [str(name) for name in node] if isinstance(node, DictConfig) else groups()
