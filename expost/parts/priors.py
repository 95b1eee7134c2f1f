"""Stage 2 from its section of the configuration: which prior it is, in which wrappers, and what its key is made of.

`prior.otherwise` names the prior that takes over where the first cannot model the latents: `prior=autoregressive` is
the masked network for vectors of real numbers, and otherwise the transformer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from expost.base.command import Command
from expost.base.errors import UserError, nearest
from expost.base.places import CONF
from expost.config.build import build, construct, target_class
from expost.config.defaults import read_conf
from expost.config.limits import limited_prior
from expost.config.schema import Config, Limits, Node, VAEParts
from expost.config.sources import own_sources
from expost.job import Job, decided_settings
from expost.parts.sections import (
    all_held,
    by_name,
    flatten,
    held,
    is_prior,
    mapped,
    sized,
    title_of,
    with_held,
    without,
    written_out,
)
from expost.training.devices import seeded
from stage1_vae.latents import LatentSpec
from stage2_prior.combined.members import Combined
from stage2_prior.em.finite_mixture import FiniteMixture
from stage2_prior.fitting import FitSettings
from stage2_prior.prior import GradientPrior, Prior, Wrapper, innermost
from stage2_prior.priors.learned import NONE_LEARNED, Learned
from stage2_prior.priors.mixture import Mixture
from stage2_prior.spaces.spherical_mixture import SphericalMixture
from stage2_prior.wrappers.chart import Charted
from stage2_prior.wrappers.varying import Varying

PER_CLASS: Node = {"_target_": "stage2_prior.wrappers.per_class.PerClass"}
"""Around a prior that takes no labels, where `prior.conditional` asks for one a class."""
CHART = "chart"
"""Name of `Charted` in `conf/wrappers.yaml`."""
BEFORE_ANY = ("vae", "encode")
"""Words of `stage=` that end before a prior is fitted, or one that was is loaded."""
POINTS = "delta"
"""Family of posteriors that are points."""
LEAST_COMPONENTS = 2
"""Of a mixture: behind one alone nothing can stand."""
OWN = ("_target_", "otherwise")
"""Keys that say which prior it is."""


def build_prior(job: Job, spec: LatentSpec, num_images: int, family: str = POINTS) -> tuple[Prior, Node]:
    """Stage 2, unfitted, in its wrappers, and its section: of the prior that suits the latents, within the limits.

    `family`: of their posteriors; what stands around priors of points alone is left out of others.

    Raises:
        UserError: it does not support the latents (with those that do), or needs more points than there are.
    """
    asked, offered = with_learned(job.config), prior_nodes()
    if family != POINTS:  # of both, for what differs from its file is a change of the user's
        asked, offered = without_points(asked), {name: without_points(file) for name, file in offered.items()}
    node = written_out(choose_prior(asked, spec, offered, job.command), offered)
    if target_class(node) is not target_class(asked):
        job.say("prior", f"{asked['otherwise']}, for these latents are {spec.words}")

    def say(words: str) -> None:
        job.say("prior", words)

    node = with_fewer_components(sized(node, num_images), num_images, offered, say)
    node = suited(node, spec, num_images, job.config.limits, offered, say)
    return make_prior(node, spec, num_images, job.config.seeds.prior, place_of_prior(job, node)), node


def place_of_prior(job: Job, node: Node) -> torch.device:
    """Where the prior of the section `node`, written out, is built: on the job's device, and of a job that ends before
    there is one on torch's device without memory, for it is only asked what it supports. Fifty covariances of 4,096
    dimensions are 6.3 GiB.

    What is not shipped is built as ever: its constructor may look at numbers, which that device has not.
    """
    if job.config.stage not in BEFORE_ANY:
        return job.device
    sections = [node, *all_held(node)]
    sections += [wrapper for section in sections for _, wrapper in listed_wrappers(section)]
    is_shipped = all(own_sources(target_class(section)) is None for section in sections)
    return torch.device("meta") if is_shipped else job.device


@contextmanager
def beginning(seed: int, device: torch.device) -> Iterator[None]:
    """What the weights of a prior begin with, inside the block: that seed, and no memory where `device` has none."""
    with seeded(seed, device), device if device.type == "meta" else nullcontext():
        yield


def with_learned(config: Config) -> Node:
    """The section `prior`; in one that takes over what the VAE learns, what that is.

    Raises:
        UserError: that is asked to be something else than it is.
    """
    node, vae = config.prior, config.vae
    if not issubclass(target_class(node), Learned):
        return node
    if node.get("wrap") or node.get("conditional"):
        raise UserError("prior=learned is taken over as it was learned; leave out prior.wrap and prior.conditional")
    learned, asked = learned_node(vae) if isinstance(vae, VAEParts) else None, node.get("prior")
    same = isinstance(asked, dict) and learned is not None and asked.get("_target_") == learned["_target_"]
    if asked is not None and not same:
        raise UserError("prior.prior: it is what was learned with the VAE; leave it out, and choose it by vae.prior")
    return node | {"prior": asked or learned}


def learned_node(vae: VAEParts) -> Node | None:
    """The section of the prior that is learned with a VAE, written out, without what only a fit reads; None: none is.

    Raises:
        UserError: it names no prior.
    """
    if vae.prior is None:
        return None
    offered = prior_nodes()
    if isinstance(vae.prior, dict) and vae.prior.get("conditional"):
        raise UserError("vae.prior.conditional: what is learned with the VAE sees no labels; set it to false")
    node = without_points(written_out(by_name("vae.prior", offered, vae.prior), offered))
    return without(node, ("fit", "otherwise", "conditional"))


def without_points(node: Node) -> Node:
    """The section `node`, and those that are written out in it, without the wrappers that do something to points alone:
    any other prior is then chosen, and kept, as if there were no such."""
    wrappers = zip(node.get("wrap") or (), listed_wrappers(node), strict=True)
    left = [given for given, (_, wrapper) in wrappers if not target_class(wrapper).of_points]
    return with_held(node | ({"wrap": left} if "wrap" in node else {}), without_points)


def suited(
    node: Node,
    spec: LatentSpec,
    num: int,
    limits: Limits,
    offered: dict[str, Node],
    say: Callable[[str], None] = lambda words: None,
) -> Node:
    """The section `node`, written out, within the limits of a fit to `num` latents of `spec`; the priors in it too,
    each of which is what models what is inside of the wrappers. What is left out is said.

    Raises:
        UserError: a section `fit`, of it or of one in it, says what it may not.
    """
    check_fit(node)
    a_class = bool(node.get("conditional")) and not target_class(node).takes_labels
    inner = inner_spec(wrapper_nodes(node, spec), spec)
    node = with_held(node, lambda part: choose_prior(part, inner, offered, Command()))
    for part, reason in left_out(node, inner):
        say(f"without {title_of(part, offered)}: {reason}")
    node = with_held(able(node, inner), lambda part: suited(part, inner, num, limits, offered, say))
    return limited_prior(node, spec, num, limits, a_class)


def with_fewer_components(
    node: Node,
    num: int,
    offered: dict[str, Node],
    say: Callable[[str], None],
    above: Node | None = None,
    place: str = "",
) -> Node:
    """The section `node`, written out, of a mixture with half as many components as there are latents, which is said,
    where a file of those `offered` gives it more than these can have, and what it holds likewise; a number that no file
    gives stays, and so do rungs of a ladder, which are skipped.

    Args:
        above: the section that holds it.
        place: where it stands, below `prior`.
    """
    cls, asked = target_class(node), node.get("num_components")
    if not (issubclass(cls, Combined) and cls.skips_members):

        def fewer_in(part: Any, key: str) -> Any:
            below = f"{place}.{key}"
            return with_fewer_components(part, num, offered, say, node, below) if is_prior(part) else part

        node = {key: mapped(value, partial(fewer_in, key=key)) for key, value in node.items()}
    is_mixture = issubclass(cls, FiniteMixture | SphericalMixture)
    if not is_mixture or type(asked) is not int or asked <= num or num < LEAST_COMPONENTS:
        return node
    given = [file for file in offered.values() if file["_target_"] == node["_target_"]]
    if above is not None:
        holders = [file for file in offered.values() if file["_target_"] == above["_target_"]]
        given += [part for file in holders for part in held(written_out(file, offered))]
    if asked not in [part.get("num_components") for part in given if part["_target_"] == node["_target_"]]:
        return node
    fewer = max(LEAST_COMPONENTS, num // 2)
    is_member = above is not None and issubclass(target_class(above), Combined)
    remedy = f"prior{place} sets it" if is_member else f"prior{place}.num_components sets it"
    whose = f"{title_of(node, offered)}: " * (above is not None)
    say(f"{whose}{fewer} components and not {asked}, for there are {num} latents to fit; {remedy}")
    return node | {"num_components": fewer}


def make_prior(node: Node, spec: LatentSpec, num: int, seed: int, device: torch.device, place: str = "prior") -> Prior:
    """The prior of the section `node` in its wrappers, unfitted, on `device`, for `num` latents of `spec`; `place`: of
    the section, for messages.

    Raises:
        UserError: as for `build_prior`.
    """
    check_fit(node)
    offered = prior_nodes()
    node = written_out(node, offered)
    if (reason := why_not(node, spec)) is not None:
        others = [name for name, other in offered.items() if is_able(other, spec, offered)]
        raise UserError(f"{reason}; priors that do: {', '.join(others) or 'none'}")
    prior = construct_prior(decided(sized(node, num), device), spec, lambda: beginning(seed, device), place)
    if prior.min_images > num:
        number, chosen = f"{place}.num_components", isinstance(innermost(prior), Mixture)
        raise UserError(
            f"{title_of(node, offered)} needs at least {prior.min_images} training images or latents and there are "
            f"{num}; {f'set {number}=auto, or ' * chosen}lower {number}, or that of its base, or give more"
        )
    return prior.to(device)


def construct_prior(
    node: Node,
    spec: LatentSpec,
    seeding: Callable[[], AbstractContextManager[None]] = nullcontext,
    place: str = "prior",
) -> Prior:
    """The prior of a section that is written out, in its wrappers, unfitted, with those that it holds.

    Args:
        node: the section, with sizes.
        spec: what one latent is.
        seeding: what each of them begins with: its weights are those that it would have alone.
        place: of the section, for messages.

    Raises:
        UserError: whatever a constructor refuses.
    """
    wrappers = wrapper_nodes(node, spec)
    inner = inner_spec(wrappers, spec)

    def made(value: Any, key: str) -> Any:
        if not is_prior(value):
            return value
        part = construct_prior(value, inner, seeding, f"{place}.{key}")
        part.title, part.fit_settings = title_of(value, offered), value.get("fit") or {}
        return part

    node, offered = able(node, inner), prior_nodes() if held(node) else {}
    given = {key: mapped(value, partial(made, key=key)) for key, value in constructor_node(node).items()}
    with seeding():
        prior = build(place, given, spec=inner)
    for wrapper in wrappers:
        prior = build(f"{place}.wrap", wrapper, prior=prior)
    return prior


def decided(node: Node, device: torch.device) -> Node:
    """The section `node` in whose priors `fit.precision: auto` is decided for `device`."""

    def of_part(part: Node) -> Node:
        return decided(part | ({"fit": decided_settings(part, device)} if "fit" in part else {}), device)

    return with_held(node, of_part)


def why_not(node: Node, spec: LatentSpec) -> str | None:
    """Why the prior of a section that is written out, or one of those in it, cannot model latents of `spec`."""
    inner = inner_spec(wrapper_nodes(node, spec), spec)
    if issubclass(target_class(node), Learned) and node.get("prior") is None:
        return NONE_LEARNED
    if target_class(node).needs_encoder and inner.support is not spec.support:
        return f"{title_of(node, prior_nodes())} is made of normal posteriors; these latents are {spec.support.value}"
    reasons = (target_class(node).check(inner), *(why_not(part, inner) for part in held(able(node, inner))))
    return next((reason for reason in reasons if reason is not None), None)


def is_able(node: Node, spec: LatentSpec, offered: dict[str, Node]) -> bool:
    """Whether a prior that is `offered`, or who takes over from it or from one in it, models latents of `spec`."""
    node = written_out(choose_prior(node, spec, offered, Command()), offered)
    inner = inner_spec(wrapper_nodes(node, spec), spec)
    return why_not(with_held(node, lambda part: choose_prior(part, inner, offered, Command())), spec) is None


def left_out(node: Node, spec: LatentSpec) -> list[tuple[Node, str]]:
    """The sections in `node` of members that cannot model latents of `spec`, each with the reason, where its class does
    without such and others are left."""
    cls, parts = target_class(node), held(node)
    if not (issubclass(cls, Combined) and cls.skips_members):
        return []
    reasons = [(part, reason) for part in parts if (reason := why_not(part, spec)) is not None]
    return reasons if len(reasons) < len(parts) else []


def able(node: Node, spec: LatentSpec) -> Node:
    """The section `node` without what it leaves out."""
    out = [part for part, _ in left_out(node, spec)]
    return node | ({"members": [part for part in held(node) if part not in out]} if out else {})


def check_fit(node: Node) -> None:
    """
    Raises:
        UserError: the section `fit` of a prior says what it may not; refused here, not after stage 1 was trained.
    """
    if node.get("fit") is not None and not isinstance(node["fit"], Mapping):
        raise UserError(f"prior.fit={node['fit']}: it is a section; set its keys, such as prior.fit.max_epochs=10")
    if issubclass(target_class(node), GradientPrior):
        construct("prior.fit", FitSettings, node.get("fit") or {})


def inner_spec(wrappers: Sequence[Node], spec: LatentSpec) -> LatentSpec:
    """What the prior inside of all `wrappers`, the innermost first, models of latents of `spec`."""
    for wrapper in reversed(wrappers):
        spec = target_class(wrapper).inner_spec(spec, **without(wrapper, ("_target_",)))
    return spec


def beside_constants(
    prior_of: Callable[[LatentSpec], Prior], spec: LatentSpec, fixed: Sequence[int], dependent: Sequence[int] = ()
) -> Prior:
    """A prior of latents of `spec` whose places `fixed` never vary and whose dimensions `dependent` are functions of
    the others; without any, what `prior_of` makes of it."""
    if not (fixed or dependent):
        return prior_of(spec)
    return Varying(prior_of(Varying.inner_spec(spec, fixed=fixed, dependent=dependent)), fixed, dependent)


def prior_nodes() -> dict[str, Node]:
    """All priors that `conf/prior/` offers, by name."""
    return {path.stem: read_conf(f"prior/{path.name}") for path in sorted(CONF.glob("prior/*.yaml"))}


def choose_prior(node: Node, spec: LatentSpec, offered: dict[str, Node], command: Command) -> Node:
    """The section of the prior that models latents of `spec`: `node`, or what its `otherwise` names.

    What the user has changed in `node` holds for the other one too: what was typed, and what differs from the file
    that it came from, one of those `offered`.

    Raises:
        UserError: `otherwise` names no prior, or a changed key is one that the other prior does not have.
    """
    name = node.get("otherwise")
    alone = in_chart(without(node, ("otherwise",)), spec)
    if name is None or target_class(node).check(inner_spec(wrapper_nodes(alone, spec), spec)) is None:
        return alone
    if name not in offered:
        raise UserError(f"prior.otherwise={name}: no such prior; {nearest(str(name), offered)}")
    other = without(offered[name], ("otherwise",))
    for path, value in user_changes(node, offered, command):
        set_key(other, path, value, name, spec)
    return in_chart(other, spec)


def in_chart(node: Node, spec: LatentSpec) -> Node:
    """The section `node` of a prior of real numbers with the chart that carries it to bounded latents of `spec` around
    it, where it names none; any other as it is."""
    if Charted.check(spec) is not None or target_class(node).check(spec) is None:
        return node
    wrap = node.get("wrap") or []
    listed = any(issubclass(target_class(wrapper), Charted) for _, wrapper in listed_wrappers(node))
    charted = node if listed else node | {"wrap": [*wrap, CHART]}
    inner = inner_spec(wrapper_nodes(charted, spec), spec)
    return charted if target_class(node).check(inner) is None else node


def user_changes(node: Node, offered: dict[str, Node], command: Command) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys of `node` that are not as its file has them, or that were typed all the same, and their values."""
    named = [file for file in offered.values() if all(file.get(key) == node.get(key) for key in OWN)]
    files = [dict(flatten(form)) for file in named for form in (file, written_out(file, offered))]
    typed = {word.lstrip("+").split("=")[0] for word in command.overrides}
    for path, value in flatten(node):
        as_filed = any(path in file and file[path] == value for file in files)
        if path[0] not in OWN and (not as_filed or ".".join(("prior", *path)) in typed):
            yield path, value


def set_key(node: Node, path: tuple[str, ...], value: Any, name: str, spec: LatentSpec) -> None:
    """Set one key that `node`, the section of the prior `name`, has.

    Raises:
        UserError: it has not.
    """
    *sections, last = path
    for section in sections:
        node = node.get(section, {})
    if last not in node:
        keys = ", ".join(key for key in node if not key.startswith("_"))
        raise UserError(
            f"prior.{'.'.join(path)}: prior={name} models these latents ({spec.words}) and has no such key; "
            f"leave it out (its keys: {keys})"
        )
    node[last] = value


def constructor_node(node: Node) -> Node:
    """What of a prior's section its constructor takes."""
    cls = target_class(node)
    others = ["fit"] * issubclass(cls, GradientPrior) + ["conditional"] * (not cls.takes_labels)
    return without(node, ("wrap", "otherwise", *others))


def wrapper_nodes(node: Node, spec: LatentSpec) -> list[Node]:
    """The sections of what stands around a prior of latents of `spec`, the innermost first.

    Raises:
        UserError: no such wrapper, one that needs labels where there are none, or no answer to whether labels count.
    """
    if not isinstance(conditional := node.get("conditional", False), bool):
        raise UserError(f"prior.conditional={conditional}: give true or false")
    a_class = conditional and not target_class(node).takes_labels
    if a_class and (reason := target_class(PER_CLASS).check(spec)) is not None:
        raise UserError(reason)
    names = [name for name, _ in listed_wrappers(node)]
    if "chart" in names[:-1]:
        raise UserError(f"prior.wrap=[{','.join(names)}]: put chart last, beside the prior")
    wrappers: list[Node] = []
    for _, wrapper in reversed([("", PER_CLASS)] * a_class + listed_wrappers(node)):  # from the latents inwards
        cls = target_class(wrapper)
        if cls.check(spec) is None:  # codes have no scale; one file suits them and reals
            wrappers.insert(0, cls.keywords_of(spec) | wrapper)
            spec = cls.inner_spec(spec, **without(wrappers[0], ("_target_",)))
    return wrappers


def listed_wrappers(node: Node) -> list[tuple[str, Node]]:
    """What `prior.wrap` lists, each under its name, or under its `_target_` where it is a section itself.

    Raises:
        UserError: it is no list, or names what is no wrapper.
    """
    asked, offered = node.get("wrap"), read_conf("wrappers.yaml")
    listed = [] if asked is None else asked
    if not isinstance(listed, list) or not all(isinstance(wrapper, str | dict) for wrapper in listed):
        raise UserError(f"prior.wrap={asked}: give a list of names, such as prior.wrap=[{next(iter(offered))}]")
    wrappers = []
    for wrapper in listed:
        if isinstance(wrapper, str) and wrapper not in offered:
            raise UserError(f"prior.wrap={wrapper}: no such wrapper; {nearest(wrapper, offered)}")
        name, section = (wrapper, offered[wrapper]) if isinstance(wrapper, str) else (wrapper.get("_target_"), wrapper)
        if not issubclass(target_class(section), Wrapper):
            raise UserError(f"prior.wrap={name}: it stands around no prior; give a class of stage2_prior.prior.Wrapper")
        wrappers.append((name, section))
    return wrappers
