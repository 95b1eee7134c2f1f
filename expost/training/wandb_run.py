"""A run of W&B, on good days and on bad ones: what it takes is never worth the training that it is told of.

A key without a network, or a server that refuses: after seconds the run goes on offline. A mistake of the user's ends
the command before the training. What fails later is told once, and W&B hears no more.
"""

import netrc
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

from pydantic import ValidationError

from expost.base.errors import UserError, nearest
from expost.config.schema import Logger as LoggerSettings

MODE = "WANDB_MODE"
SERVER = "https://api.wandb.ai"
OLD_NAMES = {"dryrun": "offline", "run": "online"}
AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""What an agent of a W&B sweep says, in the environment, to the one run that it has started."""
MODES = ("disabled", "offline", "online", "shared")
INIT_SECONDS, FINISH_SECONDS = 15.0, 60.0
"""That W&B may take to answer, and at the end to take the rest, unless the user's environment says otherwise."""

STEP = "epoch"

Say = Callable[[str], None]


def wandb_name(stage: str, name: str) -> str:
    """What the figure `name` of `stage` is called in W&B."""
    return name if name.startswith(f"{stage}/") else f"{stage}/{name}"


def set_agent_aside() -> None:
    """Every stage is a run in W&B, and each would take the agent's identity for its own: the report alone has it.

    W&B copies the environment when it is first used, so this comes first.
    """
    for name in AGENT:
        if name in os.environ:
            os.environ[f"EXPOST_{name}"] = os.environ.pop(name)


def agent() -> dict[str, str]:
    """What the agent said, by the names of W&B's settings; nothing without one."""
    settings = {"run_id": os.environ.get("EXPOST_WANDB_RUN_ID"), "sweep_id": os.environ.get("EXPOST_WANDB_SWEEP_ID")}
    return {name: value for name, value in settings.items() if value}


def has_key() -> bool:
    """Whether the user has a W&B key on this machine."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):
        return False


def wandb_mode(settings: LoggerSettings) -> str:
    """`WANDB_MODE` wins, then `logger.mode`; `auto` is online exactly where the user is logged in.

    Raises:
        UserError: `WANDB_MODE` is no mode.
    """
    if chosen := os.environ.get(MODE):
        if chosen not in (*MODES, *OLD_NAMES):
            raise UserError(f"{MODE}={chosen}: {nearest(chosen, MODES)}")
        return OLD_NAMES.get(chosen, chosen)
    if settings.mode == "auto":
        return "online" if has_key() else "offline"
    return settings.mode


class WandbRun:
    """An open run that raises nothing: where W&B fails it is given up, with one line, until the next stage.

    Args:
        run: W&B's own.
        say: takes the line.
    """

    packages_are_listed: ClassVar[bool] = False
    """By a run of this process: they are the same for all, and the list takes a fifth of a second."""

    def __init__(self, run: Any, say: Say) -> None:
        self.id, self._run, self._say = str(run.id), run, say

    def tell(self, words: Callable[[Any], Any]) -> None:
        """Call `words` with W&B's own run, unless that has failed before."""
        if self._run is None:
            return
        try:
            words(self._run)
        except Exception as error:  # of its process, its socket, its files: they share no base class
            _give_up(self._run)
            self._run = None
            self._say(f"W&B failed ({_reason(error)}); what it misses of this stage is in the CSV files")


def open_run(
    settings: LoggerSettings,
    folder: Path,
    stage: str,
    group: str,
    config: Mapping[str, Any],
    identity: Mapping[str, Any],
    say: Say,
) -> WandbRun:
    """A run of W&B for one stage; offline, with a line, where its server does not answer.

    Raises:
        UserError: no key where one is needed, or a name or a variable that W&B does not take.
    """
    for name, sub in {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_CONFIG_DIR": "config"}.items():
        os.environ[name] = str(folder.resolve() / "wandb" / sub)  # each job of a sweep has its own
    if not os.environ.get(MODE):
        os.environ.pop(MODE, None)  # an empty one is no mode to W&B
    import wandb

    is_whole = not WandbRun.packages_are_listed or bool(identity)  # an announced run is seen without the others
    unless_set = {
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "x_save_requirements": is_whole,
    }
    chosen = {"silent": True, "console": "off", **_known(wandb, unless_set), **identity}

    def open_in(mode: str) -> WandbRun:
        run = wandb.init(
            project=settings.project,
            group=group,
            job_type=stage,
            name=f"{stage}-{group}",
            config=dict(config),
            dir=str(folder),
            mode=cast("Literal['online', 'offline']", mode),
            reinit="finish_previous",
            settings=wandb.Settings(**chosen),
        )
        WandbRun.packages_are_listed = True
        return WandbRun(run, say)

    folder.mkdir(parents=True, exist_ok=True)
    mode = wandb_mode(settings)
    try:
        try:
            return open_in(mode)
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError):
            raise
        except wandb.Error as error:
            if mode == "offline":
                raise
            os.environ[MODE] = "offline"  # what follows need not wait for it again
            later = f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"
            say(f"W&B does not answer ({_reason(error)}); goes on offline, and this sends it later: {later}")
            return open_in("offline")
    except (wandb.Error, ValueError) as error:  # pydantic's complaints of a variable are ValueErrors
        raise UserError(f"W&B: {_reason(error)}; mend that, or set {MODE}=offline or logger=csv") from error


def _give_up(run: Any) -> None:
    """Keep what W&B has, and end its process, whose hook at the end of this one would raise what is told already."""
    import wandb

    with suppress(Exception):
        run.finish(exit_code=1)
    with suppress(Exception, SystemExit):
        wandb.teardown(1)


def _known(wandb: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that this version of W&B knows, and that the user's environment does not say otherwise."""
    known = wandb.Settings.model_fields
    spelled = {name: f"WANDB_{name.removeprefix('x').upper()}" for name in settings}  # x_name is WANDB__NAME
    return {name: to for name, to in settings.items() if name in known and spelled[name] not in os.environ}


def _reason(error: Exception) -> str:
    """What went wrong in one line, without W&B's advice."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"WANDB_{'_'.join(map(str, first['loc'])).upper()}={first['input']}: {first['msg']}"
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
