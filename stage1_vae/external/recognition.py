"""What `encode` returned for a few images, recognised.

A tensor of real numbers is a point mass; two of them, by their names or side by side, are a mean and what tells its
spread; so is one of twice the channels that `decode` takes. Integers are codes. A torch distribution is itself.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from stage1_vae.external.errors import ExternalError
from stage1_vae.external.readings import (
    MOST_CODES,
    BitReading,
    CodeReading,
    NormalReading,
    PointReading,
    Reading,
    Second,
)
from stage1_vae.external.weights import modules
from stage1_vae.posteriors import Bits, Delta, DiagonalNormal

WRAPPERS = ("latent_dist", "latents", "latent", "posterior", "z", "codes", "indices", "embedding")
MEANS = ("mean", "mu", "loc", "z_mean", "embedding")
SECONDS = {
    Second.LOG_VAR: ("logvar", "log_var", "log_variance", "log_covariance", "z_log_var"),
    Second.LOG_STD: ("log_std", "logstd", "log_scale", "logscale", "log_sigma", "logsigma"),
    Second.STD: ("std", "stddev", "scale", "sigma"),
    Second.VAR: ("var", "variance"),
}
DRAWS = ("reparameterize", "reparametrize", "reparameterise", "reparametrise", "reparameterization")
CODEBOOK_SIZES = ("num_codes", "codebook_size", "n_embed", "n_e", "num_vq_embeddings", "num_embeddings", "vocab_size")
NUM_DRAWS = 64
KEY = "vae.second=log_var|log_std|std|var"
RETURN = (
    "return a float tensor (a point), mean and log-variance, integer codes, or a torch Normal or Bernoulli, each with "
    "one row an image"
)


@dataclass(frozen=True)
class Asked:
    """What the user said of the latents.

    Attributes:
        second: what stands beside the mean; None: find out.
        num_codes: codebook sizes, one or one a level; None: the model knows.
    """

    second: Second | None = None
    num_codes: int | tuple[int, ...] | None = None


def recognise(model: Any, output: Any, num_images: int, decodes: Callable[[Tensor], bool], asked: Asked) -> Reading:
    """The reading of `output`, which `model.encode` returned for `num_images` images.

    Args:
        decodes: whether `decode` makes images of the right shape of such a tensor.

    Raises:
        ExternalError: it is nothing that is known here, or a codebook's size is.
    """
    found = _reading(model, output, decodes, asked, lambda value: value)
    if found is None:
        raise ExternalError(f"encode(x) returns {description(output)}: {RETURN}")
    if asked.second is not None and not (isinstance(found, NormalReading) and found.second is asked.second):
        raise ExternalError(f"vae.second={asked.second.value}: encode(x) returns {found.words}; leave vae.second out")
    if asked.num_codes is not None and not isinstance(found, CodeReading):
        raise ExternalError(f"vae.num_codes: encode(x) returns no codes but {found.words}; leave vae.num_codes out")
    posterior = found.posterior(output)
    shape = posterior.batch_shape + posterior.event_shape
    if len(shape) < 2 or shape[0] != num_images or 0 in shape:
        raise ExternalError(f"encode(x) of {num_images} images returns {description(output)}: {RETURN}")
    return found


def _reading(
    model: Any, output: Any, decodes: Callable[[Tensor], bool], asked: Asked, pick: Callable[[Any], Any]
) -> Reading | None:
    """The reading of `output`, which `pick` finds in what `encode` returned; None: it is not known."""
    if isinstance(output, DiagonalNormal):
        return NormalReading("mean and standard deviation", (), lambda o: _both(pick(o)), Second.LOG_STD)
    if isinstance(output, Delta):
        return PointReading("point masses", (), lambda o: pick(o).loc)
    if isinstance(output, Distribution):
        return _of_distribution(output, pick)
    if isinstance(output, Tensor):
        return _of_tensor(model, output, decodes, asked, pick)
    if _is_list_of(output, lambda level: not level.is_floating_point()):
        return _of_codes(model, list(output), asked, lambda o: list(pick(o)), listed=True)
    if _is_list_of(output, Tensor.is_floating_point) and len(output) == 2 and output[0].shape == output[1].shape:
        return _of_moments(model, output, asked, lambda o: (pick(o)[0], pick(o)[1]), None, None)
    if isinstance(output, (tuple, list)) and len(output) == 1:
        return _reading(model, output[0], decodes, asked, lambda o: pick(o)[0])
    mean, second = _named(output, MEANS), _named_second(output)
    if mean is not None and second is not None:
        name, kind = second
        get = lambda o: (_get(pick(o), mean), _get(pick(o), name))  # noqa: E731
        return _of_moments(model, output, asked, get, kind, name)
    for name in WRAPPERS:
        inner = _get(output, name)
        if inner is not None and not callable(inner):
            return _reading(model, inner, decodes, asked, lambda o: _get(pick(o), name))  # noqa: B023 returned at once
    return None


def _of_tensor(
    model: Any, output: Tensor, decodes: Callable[[Tensor], bool], asked: Asked, pick: Callable[[Any], Any]
) -> Reading:
    if not output.is_floating_point():
        return _of_codes(model, [output], asked, lambda o: [pick(o)], listed=False)
    if output.ndim >= 2 and output.shape[1] % 2 == 0 and not decodes(output):
        half = output.shape[1] // 2
        if decodes(output[:, :half]):
            get = lambda o: (pick(o)[:, :half], pick(o)[:, half:])  # noqa: E731
            reading = _of_moments(model, output, asked, get, None, None)
            words = f"{reading.words}, stacked: {2 * half} channels of which decode takes {half}"
            return NormalReading(words, reading.guesses, reading.pick, reading.second)
    return PointReading("point masses: it returns one tensor of real numbers", (), pick)


def _of_distribution(output: Distribution, pick: Callable[[Any], Any]) -> Reading | None:
    if isinstance(output, Independent):
        return _of_distribution(output.base_dist, lambda o: pick(o).base_dist)
    if isinstance(output, Normal):
        get = lambda o: (pick(o).loc, pick(o).scale)  # noqa: E731
        return NormalReading("a torch Normal", (), get, Second.STD)
    if isinstance(output, (Bernoulli, Bits)):
        return BitReading("a torch Bernoulli: bits", (), lambda o: pick(o).logits, tuple(output.logits.shape[1:]))
    return None


def _both(posterior: DiagonalNormal) -> tuple[Tensor, Tensor]:
    return posterior.loc, posterior.log_std


# ---- mean and spread ----------------------------------------------------------------------------------------------


def _of_moments(
    model: Any,
    output: Any,
    asked: Asked,
    pick: Callable[[Any], tuple[Tensor, Tensor]],
    named: Second | None,
    name: str | None,
) -> NormalReading:
    """A mean and what stands beside it: as the user says, else as draws show, else as its name says, else a guess."""
    mean, second = pick(output)
    if asked.second is not None:
        return NormalReading(f"mean and {asked.second.words}, as vae.second says", (), pick, asked.second)
    measured = _measured(_draws(model, output, mean, second), mean, second)
    if measured is not None:
        against = f", though its name is {name}" if named is not None and named is not measured else ""
        return NormalReading(f"mean and {measured.words}, measured from draws{against}", (), pick, measured)
    if named is not None:
        return NormalReading(f"mean and {named.words}, by the name {name}", (), pick, named)
    guess = f"what stands beside the mean is taken for a log-variance; {KEY} changes it"
    return NormalReading("mean and log-variance", (guess,), pick, Second.LOG_VAR)


def _draws(model: Any, output: Any, mean: Tensor, second: Tensor) -> list[Tensor]:
    """Draws of the model's own, where it offers any; the global generators are as before afterwards."""
    call = _drawing(model, output, mean, second)
    if call is None:
        return []
    devices = [mean.device] if mean.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), suppress(Exception):  # it need not take what we give it
        torch.manual_seed(0)
        draws = [call() for _ in range(NUM_DRAWS)]
        if all(isinstance(draw, Tensor) and draw.shape == mean.shape for draw in draws):
            return draws
    return []


def _drawing(model: Any, output: Any, mean: Tensor, second: Tensor) -> Callable[[], Tensor] | None:
    for name in ("sample", "rsample"):
        if not isinstance(output, (Tensor, tuple, list, Mapping)) and callable(method := getattr(output, name, None)):
            return cast(Callable[[], Tensor], method)
    for name in DRAWS:
        if callable(method := getattr(model, name, None)):
            return lambda: _drawn(model, method, mean, second)
    return None


def _drawn(model: Any, method: Callable[..., Tensor], mean: Tensor, second: Tensor) -> Tensor:
    """One draw by a method that in evaluation mode often returns the mean: this one flag says training meanwhile."""
    with _flagged_as_training(model):
        return method(mean, second)


@contextmanager
def _flagged_as_training(model: Any) -> Any:
    was = getattr(model, "training", None)
    if isinstance(model, nn.Module):
        model.training = True  # of this module alone: its layers stay as they are
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            model.training = bool(was)


def _measured(draws: list[Tensor], mean: Tensor, second: Tensor) -> Second | None:
    """Under which meaning of `second` the draws are likeliest; None: they do not tell."""
    if not draws:
        return None
    squared = (torch.stack(draws).double() - mean.double()).square().mean(0)  # what the variance must be
    scores: list[tuple[float, float, Second]] = []
    for kind in Second:
        log_std = kind.log_std(second).double()
        ratio = squared * torch.exp(-2 * log_std)
        score = float(-NUM_DRAWS * (ratio / 2 + log_std).sum())  # log-likelihood of all draws, but for a constant
        if score == score and abs(score) != float("inf"):
            scores.append((score, float(ratio.mean()), kind))
    scores.sort(reverse=True, key=lambda entry: entry[0])
    if not scores or not 0.5 < scores[0][1] < 2 or (len(scores) > 1 and scores[0][0] - scores[1][0] < 10):
        return None
    return scores[0][2]


# ---- codes --------------------------------------------------------------------------------------------------------


def _of_codes(
    model: Any, levels: list[Tensor], asked: Asked, pick: Callable[[Any], list[Tensor]], listed: bool
) -> CodeReading:
    events = tuple(tuple(level.shape[1:]) for level in levels)
    if any(len(event) not in (1, 2) for event in events):
        shapes = ", ".join(str(tuple(level.shape)) for level in levels)
        raise ExternalError(
            f"encode(x) returns codes of shape {shapes}: return (B, T) or (B, h, w), or a list with one such a level"
        )
    sizes, source = _num_codes(model, len(levels), asked)
    if (largest := max(sizes)) > MOST_CODES or min(sizes) < 2:
        raise ExternalError(
            f"a codebook of {largest if largest > MOST_CODES else min(sizes):,} codes ({source}); codes are stored in "
            f"16 bits: 2 to {MOST_CODES:,}"
        )
    places = ", ".join("x".join(map(str, event)) for event in events)
    numbers = ", ".join(f"{size:,}" for size in dict.fromkeys(sizes))
    words = f"codes {places} of a codebook of {numbers} ({source})"
    return CodeReading(words, (), pick, events, sizes, levels[0].dtype, listed)


def _num_codes(model: Any, num_levels: int, asked: Asked) -> tuple[tuple[int, ...], str]:
    """Codebook sizes of the levels, and where they are from."""
    if asked.num_codes is not None:
        sizes = (asked.num_codes,) * num_levels if isinstance(asked.num_codes, int) else tuple(asked.num_codes)
        if len(sizes) != num_levels:
            raise ExternalError(f"vae.num_codes={list(sizes)}: encode(x) returns {num_levels} level(s) of codes")
        return sizes, "vae.num_codes"
    found = _codebooks(model)
    if len(set(found.values())) != 1:
        held = ", ".join(f"{name}={size}" for name, size in list(found.items())[:4])
        raise ExternalError(
            "encode(x) returns codes and "
            + (f"the model names several sizes of codebooks ({held})" if held else "the model names no codebook size")
            + ": give it, vae.num_codes=NUMBER (or [NUMBER,...], one a level)"
        )
    name, size = next(iter(found.items()))
    return (size,) * num_levels, name


def _codebooks(model: Any) -> dict[str, int]:
    """Attribute -> size, as the model names them: itself first, then its quantisers, then tables of vectors."""
    own = _sizes("", model)
    if own:
        return own
    inner = {
        f"{outer}.{name}".strip("."): module
        for outer, top in modules(model).items()
        for name, module in top.named_modules()
    }
    quantisers = [_sizes(name, part) for name, part in inner.items() if not isinstance(part, nn.Embedding)]
    tables = [_sizes(name, part) for name, part in inner.items() if isinstance(part, nn.Embedding)]
    merged = {key: size for sizes in quantisers for key, size in sizes.items()}
    return merged or {key: size for sizes in tables for key, size in sizes.items()}


def _sizes(place: str, part: Any) -> dict[str, int]:
    found = {}
    for name in CODEBOOK_SIZES:
        size = getattr(part, name, None)
        if isinstance(size, int) and not isinstance(size, bool):
            found[f"{place}.{name}".strip(".")] = size
    return found


# ---- looking into what was returned -------------------------------------------------------------------------------


def _get(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    return None if isinstance(value, (Tensor, tuple, list)) else getattr(value, name, None)


def _named(output: Any, names: Sequence[str]) -> str | None:
    return next((name for name in names if isinstance(_get(output, name), Tensor)), None)


def _named_second(output: Any) -> tuple[str, Second] | None:
    for kind, names in SECONDS.items():
        if (name := _named(output, names)) is not None:
            return name, kind
    return None


def _is_list_of(output: Any, is_wanted: Callable[[Tensor], bool]) -> bool:
    is_list = isinstance(output, (tuple, list)) and len(output) > 0
    return is_list and all(isinstance(item, Tensor) and is_wanted(item) for item in output)


def description(output: Any) -> str:
    """For people: what something is, and the shapes in it."""
    if isinstance(output, Tensor):
        return f"a {str(output.dtype).removeprefix('torch.')} tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        inner = ", ".join(f"{key}: {description(value)}" for key, value in list(output.items())[:6])
        return f"a {type(output).__name__} of {inner or 'nothing'}"
    if isinstance(output, (tuple, list)):
        inner = ", ".join(description(value) for value in output[:6])
        return f"a {type(output).__name__} of {len(output)}" + (f" ({inner})" if inner else "")
    return "None" if output is None else f"a {type(output).__name__}"
