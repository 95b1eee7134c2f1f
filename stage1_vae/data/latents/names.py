"""Which array is what: by the names that people give them, and by the keys of `data:` where those differ.

A name is taken apart into a split, a mark of mirrored copies and the rest: `train_loc`, `latents_flip`, `val/codes`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.stored import Stored, list_keys
from stage1_vae.data.splits import PARTS, split_in
from stage1_vae.latents.numbers import SPREADS

MEANS = (
    *("loc", "mean", "means", "mu", "mus", "z_mean", "z_mu", "mu_z", "q_mean", "qz_mean", "qzm", "qz_m"),
    *("posterior_mean", "latent_mean", "latents_mean", "scvi_latent_qzm"),
)
POINTS = (
    *("z", "zs", "latents", "latent", "embeddings", "embedding", "embeds", "emb", "features", "feats", "vectors"),
    *("x_scvi", "scvi_latent", "x", "arr_0", "arr", "data"),
)
"""What may be a mean or one draw; said, for nobody can tell."""
COMMON = {
    "loc": MEANS,
    "log_std": ("log_std", "logstd", "log_sigma", "logsigma", "log_scale", "logscale", "log_stds"),
    "std": ("std", "stds", "sigma", "sigmas", "scale", "scales", "stddev", "z_std", "latent_std", "posterior_std"),
    "log_var": ("log_var", "logvar", "log_vars", "logvars", "log_variance", "z_log_var", "z_logvar", "latent_logvar"),
    "var": ("var", "vars", "variance", "variances", "qzv", "qz_v", "qz_var", "scvi_latent_qzv", "z_var"),
    "moments": ("moments", "moment", "posterior_moments"),
    "codes": (
        *(
            "codes",
            "code",
            "indices",
            "index",
            "tokens",
            "token",
            "token_ids",
            "ids",
            "code_indices",
            "codebook_indices",
        ),
        *("encoding_indices", "min_encoding_indices", "vq_codes"),
    ),
    "bits": ("bits", "bit", "binary_codes"),
    "logits": ("logits", "logit"),
    "probs": ("probs", "prob", "probabilities"),
    "label": ("label", "labels", "y", "ys", "target", "targets", "class", "classes", "label_ids", "class_ids"),
}
"""Kind of array -> what it is called, in lower case."""
EVENTS = ("loc", "moments", "codes", "bits", "logits", "probs")
"""Kinds that are a latent by themselves; an array of one kind is needed."""
FLIPS = ("flip", "flipped", "flips", "mirrored", "hflip")
PARTS_AND_NUMBERS = re.compile(r"\d+|\D+")


@dataclass(frozen=True)
class Name:
    """What the name of an array says: the split, empty for none; whether of mirrored copies; its other words."""

    split: str
    is_flip: bool
    rest: str


def parse(name: str) -> Name:
    words = PARTS.findall(name)
    flips = [word for word in words if word.lower() in FLIPS]
    split, words = split_in(name)
    rest = [word.lower() for word in words if word not in flips]
    if not rest and not split and not flips:
        rest = [name.lower()]
    return Name(split, bool(flips), "_".join(rest))


def choose(
    where: str, arrays: Mapping[str, Stored], keys: Mapping[str, str | bool], guesses: list[str], left_out: list[str]
) -> dict[str, str]:
    """Kind -> which of `arrays` it is: one of `EVENTS`, with `loc` at most one spread, and `label` where there is one.

    Args:
        where: the file or folder, for the user.
        arrays: the first array by each name, which has no split and no mark of copies.
        keys: kind -> the name that the user gives for it; False: none is that.
        guesses, left_out: to which is added what was made of names, and what was not taken.

    Raises:
        DataError: a key that names nothing; no array, or several, that could be meant; each with all names.
    """
    if odd := next((kind for kind, name in keys.items() if not isinstance(name, str) and name is not False), None):
        raise DataError(
            f"data.{odd}={keys[odd]}: give the name of an array, of which {where} holds {list_keys(list(arrays))}"
        )
    names = {kind: name for kind, name in keys.items() if isinstance(name, str)}
    common = {kind: () if keys.get(kind) is False else spellings for kind, spellings in COMMON.items()}
    chosen = {kind: _named(where, arrays, kind, name) for kind, name in names.items()}
    if "label" not in keys and (label := next((key for key in arrays if key.lower() in common["label"]), None)):
        chosen["label"] = label
    kind, name = _event(where, arrays, chosen, common, guesses)
    chosen = {kind: name} | chosen
    if kind == "loc" and not any(spread in chosen for spread in SPREADS):
        chosen |= _spread(where, arrays, name, common, left_out)
    if kind != "loc" and (spreads := [spread for spread in SPREADS if spread in chosen]):
        raise DataError(
            f"data.{spreads[0]}={keys[spreads[0]]} goes with data.loc, and {where} has {kind}: leave it out"
        )
    if unused := [name for name in arrays if name not in chosen.values()]:
        left_out.append(f"arrays {list_keys(unused)} (data.loc, data.codes, data.label, ... name an array)")
    return chosen


def _named(where: str, arrays: Mapping[str, Stored], kind: str, name: str) -> str:
    spelled = {key: key for key in arrays} | {parse(stored.key).rest: key for key, stored in arrays.items()}
    for spelling in (name, name.lower(), parse(name).rest):
        if spelling in spelled:
            return spelled[spelling]
    raise DataError(f"data.{kind}={name}: {where} holds {list_keys(list(arrays))}; name one of them")


def _event(
    where: str,
    arrays: Mapping[str, Stored],
    chosen: Mapping[str, str],
    common: Mapping[str, tuple[str, ...]],
    guesses: list[str],
) -> tuple[str, str]:
    """The array that is a latent by itself, and its kind."""
    if asked := [kind for kind in EVENTS if kind in chosen]:
        if len(asked) > 1:
            keys = " and ".join(f"data.{kind}" for kind in asked)
            raise DataError(f"{keys} are both given, and a latent is one of them: leave out the other")
        return asked[0], chosen[asked[0]]
    is_many = any(stored.shape[:1] != (1,) and len(stored.shape) > 1 for stored in arrays.values())
    likely = {
        key: stored
        for key, stored in arrays.items()
        if len(stored.shape) > 1 and not (is_many and stored.shape[0] == 1) and key not in chosen.values()
    }  # the others are statistics and labels
    found = {kind: [key for key in likely if key.lower() in common[kind]] for kind in EVENTS}
    found = {kind: names for kind, names in found.items() if names}
    points = [key for key in likely if key.lower() in POINTS] if common["loc"] and "loc" not in found else []
    if points:
        points = [key for key in points if key.lower() not in ("x", "data")] or points  # x beside z are images
        found["loc"] = points
    if not found and len(likely) == 1:
        found["loc"] = points = list(likely)
    names = [name for each in found.values() for name in each]
    if len(names) > 1:
        choices = " or ".join(f"data.{kind}={name}" for kind, each in found.items() for name in each)
        raise DataError(f"{where} holds {list_keys(list(arrays))}, several of which are latents: choose by {choices}")
    if not names:
        raise DataError(
            f"{where} holds {list_keys(list(arrays))}: call the latents loc, moments, codes or bits, or name them with "
            "data.loc=NAME, data.moments=NAME, data.codes=NAME or data.bits=NAME"
        )
    kind, name = next(iter(found)), names[0]
    if points:
        kind = _kind_of_numbers(likely[name].dtype)
        words = {"loc": "real numbers", "codes": "codes", "bits": "bits"}[kind]
        others = {"loc": "data.moments or data.codes", "codes": "data.loc", "bits": "data.codes"}[kind]
        guesses.append(f"{name or 'the array'} read as {words} (data.{kind}; {others} otherwise)")
    return kind, name


def _kind_of_numbers(dtype: str) -> str:
    return "bits" if dtype == "bool" else "codes" if dtype.startswith(("int", "uint")) else "loc"


def _spread(
    where: str, arrays: Mapping[str, Stored], loc: str, common: Mapping[str, tuple[str, ...]], left_out: list[str]
) -> dict[str, str]:
    """The array of standard deviations beside `loc`, whatever says them; none, or one."""
    shape = arrays[loc].shape
    found = {}
    for kind in SPREADS:
        for key in (key for key in arrays if key.lower() in common[kind] and key != loc):
            if len(arrays[key].shape) < 2 or (arrays[key].shape[0] == 1 != shape[0]):
                left_out.append(f"{key} of shape {arrays[key].shape}, which is of all latents together")
            else:
                found[f"data.{kind}={key}"] = (kind, key)
    if len(found) > 1:
        raise DataError(
            f"{where} holds {list_keys(list(arrays))}, several of which say standard deviations: choose by "
            f"{' or '.join(found)}"
        )
    return {kind: key for kind, key in found.values()}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort by: numbers in a name by their value."""
    words = PARTS_AND_NUMBERS.findall(name)
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]
