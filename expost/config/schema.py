"""The validated top level of the configuration: what may be said, and what each word may be.

Groups that hold a `_target_` are checked against the constructor that they name, in `expost.config.build`.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    Tag,
    ValidationError,
)

from expost.base.command import typed_program
from expost.base.errors import UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

Node = dict[str, Any]
Stage = Literal[
    "all",
    "vae",
    "encode",
    "prior",
    "joint",
    "sample",
    "score",
    "evaluate",
    "report",
    "compare",
    "check",
    "plan",
    "oracle",
    "answer",
    "store",
    "export",
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Seeds(Section):
    vae: Seed
    prior: Seed
    sample: Seed


class Paths(Section):
    root: Path


class Sample(Section):
    num: PositiveInt
    out: Path | None
    overwrite: bool
    noise: bool
    prior: Literal["learned", "base"]
    label: Annotated[int, Strict()] | Annotated[str, Field(min_length=1)] | None  # true is no class
    temperature: float = Field(ge=0)
    top_k: Annotated[PositiveInt, Strict()] | None
    top_p: float = Field(gt=0, le=1)
    guidance: float = Field(ge=0)
    truncation: float = Field(gt=0, le=1)


class Score(Section):
    root: Path | None
    out: Path | None
    importance_samples: PositiveInt | None
    num_pictured: PositiveInt


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Compare(Section):
    runs: Annotated[list[str], BeforeValidator(_as_list)]  # a single name needs no brackets
    group: str | None
    sort: str | None


def _as_names(value: Any) -> Any:
    return [] if value is None else _as_list(value)


class Sweep(Section):
    metric: Annotated[list[str], BeforeValidator(_as_names)]  # one, or several for a front
    num_trials: PositiveInt
    study: Annotated[str, Field(pattern=r"^[\w][\w.-]*$")] | None
    seed: Seed


class Store(Section):
    gc: bool
    verify: bool


class Export(Section):
    out: Path | None
    hub: str | None
    private: bool
    license: str | None = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")


class Plan(Section):
    num_images: Annotated[int, Field(ge=10)] | None
    image_shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)] | None
    num_val: Annotated[int, Field(ge=2)] | None
    num_test: Annotated[int, Field(ge=2)] | None
    num_classes: NonNegativeInt
    probe_seconds: PositiveFloat
    out: Path | None


class Joint(Section):
    use: Annotated[bool, Strict()]
    max_epochs: PositiveInt
    max_steps: PositiveInt | None
    lr: PositiveFloat


class Limits(Section):
    steps: PositiveInt | None
    tokens: PositiveInt | None


class VAEParts(Section):
    """Of an autoencoder that is trained here; `prior`: what is learned with it, None: nothing."""

    bottleneck: Node
    objective: Node
    prior: Node | str | None = None


def _origin(value: Any) -> str:
    """Where an autoencoder comes from: one that is trained elsewhere has a class that loads it."""
    return "external" if isinstance(value, dict) and "_target_" in value else "own"


VAE = Annotated[Annotated[VAEParts, Tag("own")] | Annotated[Node, Tag("external")], Discriminator(_origin)]


class Trainer(Section):
    max_epochs: PositiveInt
    max_steps: PositiveInt | None
    batch_size: PositiveInt
    lr: PositiveFloat
    weight_decay: float = Field(ge=0)
    schedule: Literal["constant", "cosine"]
    warmup_steps: NonNegativeInt
    gradient_clip: PositiveFloat | None
    ema_decay: float | None = Field(gt=0, lt=1)
    patience: PositiveInt | None
    val_every: PositiveInt
    precision: Annotated[Literal["32", "bf16", "auto"], BeforeValidator(str)]  # 32 on a command line is a number
    compile: bool | Literal["auto"]
    devices: Annotated[int, Field(ge=1, le=1024)]
    num_nodes: Annotated[int, Field(ge=1, le=1024)]
    strategy: Literal["auto", "ddp", "fsdp"]
    accelerator: Literal["auto", "cpu", "gpu"]
    num_workers: NonNegativeInt
    progress: Literal["auto"] | bool
    keep_share: float = Field(ge=0)

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"accelerator", "num_workers", "progress", "keep_share"})
    """Keys that cannot change a result, and so are no part of an artifact's key."""

    DIVISION: ClassVar[frozenset[str]] = frozenset({"devices", "num_nodes", "strategy"})
    """Keys that change a result only where they make several ranks; then `division` is part of an artifact's key."""

    @property
    def num_ranks(self) -> int:
        return self.devices * self.num_nodes

    @property
    def division(self) -> Node:
        """How the work is divided, as far as it can change a result; empty for one rank."""
        if self.num_ranks == 1:
            return {}
        return {"ranks": self.num_ranks} | ({"strategy": "fsdp"} if self.strategy == "fsdp" else {})


class Annealing(Section):
    num_images: PositiveInt
    num_chains: PositiveInt
    num_steps: PositiveInt
    leapfrog_steps: PositiveInt
    bdmc_images: NonNegativeInt


class Evaluation(Section):
    num_samples: PositiveInt
    importance_samples: PositiveInt
    num_bound_images: PositiveInt
    batch_size: PositiveInt
    neighbours: PositiveInt
    features: Path | None
    features_sha256: str | None
    annealing: Annealing | None
    gaps: NonNegativeInt

    def reduced(self) -> "Evaluation":
        """As little as still runs every part of it."""
        small = {"num_images": 2, "num_chains": 2, "num_steps": 3, "bdmc_images": 2}
        annealing = self.annealing and self.annealing.model_copy(update=small)
        counts = {"num_samples": 256, "importance_samples": 2, "num_bound_images": 64, "gaps": min(self.gaps, 2)}
        return self.model_copy(update={**counts, "annealing": annealing})


class Oracle(Section):
    num_images: Annotated[int, Field(ge=2)]
    importance_samples: PositiveInt
    num_chains: PositiveInt
    num_steps: PositiveInt
    leapfrog_steps: PositiveInt
    std_factor: PositiveFloat
    shift_stds: float


class Logger(Section):
    wandb: bool
    project: str
    mode: Literal["auto", "online", "offline"]


class Config(Section):
    stage: Stage
    upstream: Literal["run", "require"]
    name: str | None = Field(pattern=r"^[\w][\w. -]*$")
    seed: Seed
    seeds: Seeds
    paths: Paths
    sample: Sample
    score: Score
    compare: Compare
    store: Store
    export: Export
    plan: Plan
    sweep: Sweep
    data: Node
    net: Node
    vae: VAE
    likelihood: Node
    prior: Node
    trainer: Trainer
    joint: Joint
    evaluation: Evaluation
    limits: Limits
    oracle: Oracle
    question: Node | None
    logger: Logger

    @property
    def own_vae(self) -> VAEParts:
        """The section of an autoencoder that is trained here.

        Raises:
            TypeError: it comes from elsewhere.
        """
        if not isinstance(self.vae, VAEParts):
            raise TypeError("this autoencoder is not trained here")
        return self.vae

    @property
    def vae_node(self) -> Node:
        """The section `vae`, plain; what is not there is left out."""
        return self.vae.model_dump(exclude_none=True) if isinstance(self.vae, VAEParts) else self.vae


def validate(config: "DictConfig") -> Config:
    """The composed configuration, checked.

    Raises:
        UserError: naming the first key that is wrong, and what it may be.
    """
    from omegaconf import OmegaConf  # slow to import: only who has composed something with it
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    return checked(plain)


def checked(plain: Any) -> Config:
    """The configuration of plain values.

    Raises:
        UserError: as for `validate`.
    """
    _refuse_non_finite(plain)
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise UserError(_one_line(error)) from error


def _refuse_non_finite(value: Any, key: str = "") -> None:
    """No key of the configuration means anything at NaN or infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value}: give a finite number")
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        _refuse_non_finite(part, f"{key}.{name}" if key else str(name))


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part not in ("literal['auto']", "bool", "own", "external"))
    if first["type"] == "literal_error":
        choices = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key}={first['input']}: {nearest(str(first['input']), choices)}"
    if first["type"] == "missing":
        return f"{key} is missing; give {key}=VALUE (`{typed_program()} --help` lists the choices of each group)"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; `{typed_program()} --cfg job` prints those that there are"
    if first["type"] == "string_pattern_mismatch":
        return f"{key}={first['input']}: it names a folder; use letters, digits and . _ - only"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key}={first['input']}: {message}"
