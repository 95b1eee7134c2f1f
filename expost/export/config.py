"""What the `config.json` of an exported model says, and both stages built from it.

A class is made twice: first on torch's `meta` device, where tensors have shapes and no memory, so that what the
configuration asks for can be compared with what the files hold; then for real. A configuration that asks for more than
its files hold is refused before any of it is allocated, one that asks for endless layers while they are made.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from expost.config.build import construct
from expost.config.schema import Node
from expost.store.safe import UnsafeError, read_json, resolve_class
from expost.store.tensors import layouts, read_layouts, read_tensors
from stage1_vae.bottleneck import Bottleneck
from stage1_vae.data.images import DataError, Domain
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.latents import LatentSpec
from stage1_vae.likelihoods import Likelihood
from stage1_vae.net import Net
from stage1_vae.vae import VAE
from stage2_prior.labels import LABELS_VERSION
from stage2_prior.prior import Prior, Wrapper

CONFIG = "config.json"
VAE_FILE, PRIOR_FILE = "vae.safetensors", "prior.safetensors"
FORMAT = "expost two-stage model, 1"
BY_REFERENCE, PRIOR_ALONE = "expost two-stage model by reference, 1", "expost prior, 1"
PREPROCESS = {"_target_": "stage1_vae.data.preprocess.Preprocess"}
LABELS = "stage2_prior.labels"
"""Among the versions, of a network that takes labels."""
MOVED = {
    "stage2_prior.per_class.PerClass": "stage2_prior.wrappers.per_class.PerClass",
    "stage2_prior.standardize.Standardized": "stage2_prior.wrappers.standardize.Standardized",
}
"""Where classes of earlier exports are today."""
WRAP, TITLE = "wrap", "title"
"""In the section of a prior that another one holds: the sections of its wrappers, the innermost first, and its name."""
MOST_NESTED = 4
"""Priors in priors."""
MAX_PIXELS = 2**26
"""Numbers of one image or one latent: a model without weights could ask for any."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Preprocessing(Strict):
    """Of `stage1_vae.data.preprocess.Preprocess`."""

    levels: PositiveInt | None
    domain: Literal["unit", "real"]
    binarize: Literal["none", "dynamic", "threshold"]
    dequantize: bool


class WeightFile(Strict):
    bytes: PositiveInt
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Exported(Strict):
    """The content of `config.json`: of every kind of export.

    Attributes:
        format: of the folder.
        prior: `_target_` and the keywords of the constructor.
        wrap, wrap_keywords: classes around the prior, the innermost first, and what their constructors are given; of
            earlier exports, nothing.
        latent: of `LatentSpec.to_json`.
        class_names: of the labels, one a class; empty: they are numbers from 0.
        versions: class (or module) -> its version; `expost`, `torch` and `data` in words are for the reader.
        files: the weights.
        sha256: of all the rest, against damage; whoever means harm can write another.
    """

    format: str
    prior: Node
    wrap: list[str]
    wrap_keywords: list[Node] = []
    latent: Node
    class_names: list[str] = []
    versions: dict[str, int]
    made_with: dict[str, str]
    files: dict[str, WeightFile]
    sha256: str


class ExportedImages(Exported):
    """Of a model of images.

    Attributes:
        image_shape: [C, H, W].
        preprocess: how raw images become x.
        pixel_range: which x are black and white.
    """

    image_shape: list[PositiveInt]
    preprocess: Preprocessing
    pixel_range: list[float]


class ExportedModel(ExportedImages):
    """Of a model whose two stages are both ours: `net`, `bottleneck` and `likelihood` are like `prior`."""

    net: Node
    bottleneck: Node
    likelihood: Node


class Reference(Strict):
    """An autoencoder that lies elsewhere, and how it was called.

    Attributes:
        name: for people.
        weights_sha256: of its parameters and buffers.
        folded: it is of diffusers, whose scale and shift are folded into the latents.
        range, multiple, channels, second, num_codes, precision: of `stage1_vae.external.source.ExternalSource`.
    """

    name: str
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    folded: bool
    range: list[float]
    multiple: PositiveInt
    channels: Literal["same", "repeat"]
    second: Literal["auto", "log_var", "log_std", "std", "var"]
    num_codes: int | list[int] | None
    precision: Literal["32", "bf16"]


class ExportedReference(ExportedImages):
    """Of a prior over the latents of somebody else's autoencoder, which is named and not held."""

    autoencoder: Reference


class ExportedPrior(Exported):
    """Of a prior alone.

    Attributes:
        fractions: of validation and test, that were held out of the latents that it was fitted to; None: another way.
    """

    fractions: list[float] | None = None


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with the hash of itself."""
    plain = {key: value for key, value in content.items() if key != "sha256"}
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**plain, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def read_config(folder: Path) -> Exported:
    """The checked `config.json` of an export, of the kind that its format says.

    Raises:
        UnsafeError: it is missing, damaged, of another format, or says what it may not.
    """
    content = read_json(folder, CONFIG)
    place = folder / CONFIG
    if not isinstance(kind := content.get("format"), str) or kind not in KINDS:
        raise UnsafeError(f"{place} is no {FORMAT!r}, but {kind!r}")
    if seal(content) != content:
        raise UnsafeError(f"{place} is damaged or was edited: its sha256 is not that of its content")
    try:
        config = KINDS[kind].model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnsafeError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from error
    files = {PRIOR_FILE} if isinstance(config, ExportedPrior) else {VAE_FILE, PRIOR_FILE}
    if config.files.keys() != files:
        raise UnsafeError(f"{place}: files must be {' and '.join(sorted(files))}, not {', '.join(config.files)}")
    if isinstance(config, ExportedImages):
        check_images(config, place)
    return config


def check_images(config: ExportedImages, place: Path) -> None:
    """
    Raises:
        UnsafeError: images that are none, or too large.
    """
    if len(config.image_shape) != 3 or math.prod(config.image_shape) > MAX_PIXELS:
        raise UnsafeError(
            f"{place}: image_shape={config.image_shape} is no [C, H, W] of at most {MAX_PIXELS:,} numbers"
        )
    if len(config.pixel_range) != 2 or config.pixel_range[0] >= config.pixel_range[1]:
        raise UnsafeError(f"{place}: pixel_range={config.pixel_range} is no [black, white]")


KINDS: dict[str, type[Exported]] = {
    FORMAT: ExportedModel,
    BY_REFERENCE: ExportedReference,
    PRIOR_ALONE: ExportedPrior,
}
"""Format -> what its `config.json` says."""


def preprocess_of(config: ExportedImages) -> Preprocess:
    """How raw images become x.

    Raises:
        UnsafeError: the facts contradict each other.
    """
    check_version(config, PREPROCESS["_target_"], Preprocess.version)
    facts = config.preprocess
    try:
        return Preprocess(facts.levels, Domain(facts.domain), facts.binarize, facts.dequantize)
    except DataError as error:
        raise UnsafeError(f"{CONFIG}: preprocess: {error}") from error


def load_stages(folder: Path, config: ExportedModel) -> tuple[VAE, Prior]:
    """Both stages with their weights, on the CPU, in evaluation mode.

    Raises:
        UnsafeError: a file is not what `config.json` says, or a class may not be named there.
    """
    stages = load_modules(folder, config, (VAE_FILE, PRIOR_FILE), lambda num: build_stages(config, num))
    vae, prior = stages
    assert isinstance(vae, VAE) and isinstance(prior, Prior)
    return vae, prior


def load_prior(folder: Path, config: Exported) -> Prior:
    """The prior with its weights, on the CPU, in evaluation mode.

    Raises:
        UnsafeError: as for `load_stages`.
    """
    spec = LatentSpec.from_json(config.latent)
    if spec.num_dims > MAX_PIXELS:
        raise UnsafeError(f"{CONFIG}: latents of {spec.num_dims:,} numbers; at most {MAX_PIXELS:,} are expected")
    (prior,) = load_modules(folder, config, (PRIOR_FILE,), lambda num: (build_prior(config, spec, num),))
    assert isinstance(prior, Prior)
    return prior


def load_modules(
    folder: Path, config: Exported, names: Sequence[str], make: Callable[[int], Sequence[nn.Module]]
) -> Sequence[nn.Module]:
    """What `make` builds of the number of tensors in the prior's file, each filled from the file of its name.

    Raises:
        UnsafeError: as for `load_stages`.
    """
    promised = {name: read_layouts(folder, name) for name in names}
    num_prior_tensors = len(promised[PRIOR_FILE])
    try:
        with torch.device("meta"), _at_most(4 * sum(map(len, promised.values())) + 64):
            shapes = make(num_prior_tensors)
        expected = zip(promised, map(layouts, shapes), strict=True)
        tensors = {name: read_tensors(folder, name, layout, config.files[name].sha256) for name, layout in expected}
        with torch.random.fork_rng(devices=[]):
            made = make(num_prior_tensors)
        for name, module in zip(names, made, strict=True):
            module.load_state_dict(tensors[name])
    except UnsafeError:
        raise
    except Exception as error:  # of a constructor: torch's complaints and Python's own share no base class
        raise UnsafeError(f"{folder / CONFIG} asks for what cannot be built: {error}") from error
    return [module.eval() for module in made]


def build_stages(config: ExportedModel, num_prior_tensors: int) -> tuple[VAE, Prior]:
    """Both stages, stage 1 with fresh weights and stage 2 unfitted; `num_prior_tensors`: in its file.

    Raises:
        UnsafeError: the latents are too large, not what was written down, or whatever `build_prior` refuses.
    """

    def bottleneck(**injected: Any) -> Bottleneck:
        return build_part(config, "bottleneck", Bottleneck, **injected, num_classes=config.latent.get("num_classes", 0))

    channels, height, width = config.image_shape
    net, likelihood = build_part(config, "net", Net), build_part(config, "likelihood", Likelihood)
    vae = VAE((channels, height, width), net, bottleneck, likelihood)
    if vae.spec.num_dims > MAX_PIXELS:
        raise UnsafeError(f"{CONFIG}: latents of {vae.spec.num_dims:,} numbers; at most {MAX_PIXELS:,} are expected")
    if LatentSpec.from_json(config.latent) != vae.spec:
        raise UnsafeError(f"{CONFIG}: latent is not what its bottleneck makes, {vae.spec.to_json()}")
    return vae, build_prior(config, vae.spec, num_prior_tensors)


def build_prior(config: Exported, spec: LatentSpec, num_tensors: int) -> Prior:
    """Stage 2, unfitted, in its wrappers; `num_tensors`: in its file.

    Raises:
        UnsafeError: it cannot model such latents, or is one prior a class of more classes than the file has tensors.
    """
    keywords = config.wrap_keywords or [{}] * len(config.wrap)
    wrap = [{**given, "_target_": target} for target, given in zip(config.wrap, keywords, strict=True)]
    return build_wrapped(config, config.prior, wrap, spec, num_tensors)


def build_wrapped(
    config: Exported, node: Node, wrap: Sequence[Node], spec: LatentSpec, num_tensors: int, depth: int = 0
) -> Prior:
    """The prior of the section `node` in the wrappers of the sections `wrap`, with those that it holds.

    Raises:
        UnsafeError: as for `build_prior`; or priors in priors in priors.
    """
    if depth > MOST_NESTED:
        raise UnsafeError(f"{CONFIG}: priors in priors, more than {MOST_NESTED} deep")
    outer, wrappers = spec, wrappers_of(config, wrap, spec, num_tensors)
    for cls, keywords in reversed(wrappers):
        spec = cls.inner_spec(spec, **keywords)

    def built(value: Any) -> Any:
        if not isinstance(value, dict) or "_target_" not in value or TITLE not in value:
            return value
        own, wrap = {key: inner for key, inner in value.items() if key not in (WRAP, TITLE)}, value.get(WRAP)
        if not isinstance(wrap, list) or not all(
            isinstance(w, dict) and isinstance(w.get("_target_"), str) for w in wrap
        ):
            raise UnsafeError(f"{CONFIG}: {value['_target_']} has no wrap that is a list of sections")
        part = build_wrapped(config, own, wrap, spec, num_tensors, depth + 1)
        part.title = str(value[TITLE])
        return part

    whole = {key: [built(v) for v in value] if isinstance(value, list) else built(value) for key, value in node.items()}
    prior: Prior = build_node(config, "prior", whole, Prior, spec=spec)
    if (reason := type(prior).check(spec)) is not None:
        raise UnsafeError(f"{CONFIG}: {reason}")
    if prior.takes_labels and prior.num_classes:
        check_version(config, LABELS, LABELS_VERSION)
    for cls, keywords in wrappers:
        prior = construct("wrap", cls, keywords, prior=prior)
    if (prior.spec.shape, prior.spec.support) != (outer.shape, outer.support):
        raise UnsafeError(f"{CONFIG}: a prior of {prior.spec.words}, of latents that are {outer.words}")
    return prior


def wrappers_of(config: Exported, wrap: Sequence[Node], spec: LatentSpec, num_tensors: int) -> list[tuple[Any, Node]]:
    """The classes around a prior of latents of `spec`, the innermost first, and what their constructors are given.

    Raises:
        UnsafeError: as for `build_prior`.
    """
    if len(wrap) > 8:
        raise UnsafeError(f"{CONFIG}: {len(wrap)} wrappers around a prior")
    wrappers: list[tuple[Any, Node]] = []
    for section in reversed(wrap):  # each must model what the one around it leaves
        target, keywords = section["_target_"], {key: value for key, value in section.items() if key != "_target_"}
        cls: Any = resolve_class(MOVED.get(target, target), Prior)
        check_version(config, target, cls.version)
        if (reason := cls.check(spec)) is not None:
            raise UnsafeError(f"{CONFIG}: {reason}")
        if not issubclass(cls, Wrapper):
            raise ValueError(f"{target} stands around no prior")
        if (num := cls.num_copies(spec)) > num_tensors:
            raise UnsafeError(f"{CONFIG} asks for {num:,} priors, more than its files hold")
        wrappers.insert(0, (cls, keywords))
        spec = cls.inner_spec(spec, **keywords)
    return wrappers


def build_part(config: Exported, part: str, base: type, **injected: Any) -> Any:
    """The object that one part of the configuration names."""
    return build_node(config, part, getattr(config, part), base, **injected)


def build_node(config: Exported, part: str, node: Node, base: type, **injected: Any) -> Any:
    """The object of the section `node`, of one part of the configuration."""
    cls: Any = resolve_class(node.get("_target_"), base)
    check_version(config, node["_target_"], cls.version)
    return construct(part, cls, {key: value for key, value in node.items() if key != "_target_"}, **injected)


def check_version(config: Exported, target: str, now: int) -> None:
    """Raises:
    UnsafeError: what is called `target` has changed since, so that its weights may mean something else.
    """
    written = config.versions.get(target)
    if written != now:
        release = config.made_with.get("expost", "another release")
        raise UnsafeError(f"{target} was exported as version {written} and is version {now} here; install {release}")


@contextmanager
def _at_most(num_parameters: int) -> Iterator[None]:
    """Stop this thread from making more parameter tensors than that: there is no file for them."""
    here, count = threading.get_ident(), 0

    def count_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += threading.get_ident() == here
        if count > num_parameters:
            raise UnsafeError(f"{CONFIG} asks for more layers than its files hold")

    handle = register_module_parameter_registration_hook(count_parameter)
    try:
        yield
    finally:
        handle.remove()
