"""What a model that is not ours must hold before anything is encoded with it, found on one small batch."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.external.autoencoder import check_finite, likeliest
from stage1_vae.external.calling import Caller, SizeError
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.readings import Reading
from stage1_vae.external.recognition import Asked, description, recognise
from stage1_vae.external.weights import copies, first_of, freeze, modules, moved
from stage1_vae.latents.asked import NUM_ALONE, difference, joined
from stage1_vae.latents.dataset import PARAMETERS, Posterior
from stage1_vae.likelihoods import BernoulliImage

MULTIPLES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Studied:
    """What was found.

    Attributes:
        reading: of its latents.
        shape: of one latent event, as we keep it.
        decoded: of the images, [B, C, H, W] or a distribution over them.
        is_differentiable: whether gradients go through the decoder.
        watched: names of the tensors that were there before anything was encoded.
        asked: what came of asking it twice, in one line.
    """

    reading: Reading
    shape: tuple[int, ...]
    decoded: Tensor | Distribution
    is_differentiable: bool
    watched: tuple[str, ...] = ()
    asked: str = ""


class AskedError(ExternalError):
    """An answer depends on more than the image that was asked about; other sizes and channels would not help."""


def study(caller: Caller, x: Tensor, asked: Asked) -> Studied:
    """Recognise and check a model on images x [B, C, H, W] of ours, two at least; afterwards it is frozen.

    Raises:
        ExternalError: it cannot be stage 1; with what to do.
    """
    freeze(caller.model)
    before = copies(caller.model)
    try:
        studied = _study(caller, x, asked)
    except AskedError as error:
        names = moved(caller.model, before)
        besides = f"; it changes {first_of(names)} besides, in evaluation mode" if names else ""
        raise AskedError(f"{error}{besides}{_alternative(caller.model)}") from error
    except ExternalError as error:
        if (remedy := _remedy(caller, x[:2], asked)) is None:
            if isinstance(error, SizeError):
                raise ExternalError(f"{error}; {OWN_SIZE}") from error
            raise
        raise ExternalError(f"{error}; {remedy}") from error
    if names := moved(caller.model, before):
        raise AskedError(
            f"encode and decode change what they compute with, in evaluation mode too: {first_of(names)}; let them "
            f"leave parameters and buffers alone (of a quantiser, encode by what is meant for inference)"
            f"{_alternative(caller.model)}"
        )
    held = f"parameters and buffers as before, {len(before):,} in all" if before else "it holds no tensors"
    kind = f"{KINDS.get(studied.reading.family, 'parameters')}, the same each time, alone and in company"
    return replace(studied, watched=tuple(before), asked=f"asked twice on {len(x)} images: {kind}; {held}")


def _alternative(model: Any) -> str:
    """What a part of the model offers in place of its `forward`, in words; empty where nothing is known."""
    for place, top in modules(model).items():
        for inner, part in top.named_modules():
            for name in ALTERNATIVES:
                if callable(getattr(part, name, None)):
                    where = ".".join(filter(None, (place, inner))) or type(part).__name__
                    return f"; {where} has {name}(), which may do neither: encode by it"
    return ""


def _remedy(caller: Caller, x: Tensor, asked: Asked) -> str | None:
    """The key under which the same model passes; None: none of those that were tried."""
    form = caller.format
    trials = [("vae.channels=repeat", replace(form, repeat=True))] if form.shape[0] == 1 and not form.repeat else []
    trials += [(f"vae.multiple={n}", replace(form, multiple=n)) for n in MULTIPLES if n > form.multiple]
    trials += [
        (f"{trials[0][0]} vae.multiple={n}", replace(form, repeat=True, multiple=n))
        for n in MULTIPLES
        if trials and trials[0][1].repeat and n > form.multiple
    ]
    for key, trial in trials:
        if trial.their_shape == form.their_shape:
            continue
        try:
            _study(replace(caller, format=trial, keep=False), x, asked)
        except ExternalError:
            continue
        return f"with {key} it works: {'; '.join(replace(trial, range=(0.0, 1.0)).words)}"
    return None


def _study(caller: Caller, x: Tensor, asked: Asked) -> Studied:
    dtype = caller.dtype
    output = caller.encode(x, dtype)
    reading = recognise(caller.model, output, len(x), lambda z: _decodes(replace(caller, keep=False), z, dtype), asked)
    posterior = reading.posterior(output)
    names = PARAMETERS[reading.family]
    for name in names:
        check_finite(name, getattr(posterior, name))
    again, alone = _answer(caller, reading, x, output, dtype), _alone(caller, reading, x, output, dtype)
    for name in names:
        values: Tensor = getattr(posterior, name)
        if (apart := difference(name, values, again[name], caller.precision, few_codes=0.0)) is not None:
            raise AskedError(f"{_other_call(caller, reading, x, dtype)} ({apart})")
        if (apart := difference(name, values[:NUM_ALONE], alone[name], caller.precision)) is not None:
            raise AskedError(f"{OTHER_COMPANY} ({apart.replace('the codes differ', 'codes differ')} {ALONE})")
    _check_tells_apart(x, posterior, reading)
    z = likeliest(posterior)
    decoded = _decoded(caller, reading, z, dtype)
    _check_same(_mean(decoded), _mean(_decoded(caller, reading, z, dtype)), caller.precision, OTHER_IMAGE)
    lone = _mean(_decoded(caller, reading, z[:1], dtype))
    _check_same(_mean(decoded)[:1], lone, caller.precision, OTHER_LATENTS)
    return Studied(reading, tuple(posterior.event_shape), decoded, _is_differentiable(caller, reading, z, dtype))


ENOUGH_CODES = 16
"""As many of one value are no chance."""
KINDS = {"delta": "points", "codes": "codes"}
"""What an answer is called, by the family that it is read as; of any other they are parameters of q(z|x)."""
ALTERNATIVES = ("inference", "encode_mean", "encode_deterministic")
"""Methods of quantisers and encoders that are there for encoding."""
OWN_SIZE = "let decode(z) return the size that went in, or give images of another size"
OTHER_COMPANY = "an image alone is encoded differently than in a batch with others: let encode(x) see each by itself"
ALONE = "when an image is encoded alone"
OTHER_LATENTS = "a latent alone is decoded differently than in a batch with others: let decode(z) see each by itself"
OTHER_IMAGE = "decode(z) of the same latents differs from call to call: let it return the mean of its images"


def _answer(caller: Caller, reading: Reading, x: Tensor, first: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters of q(z|x) in what `encode` returns for x, after it had returned `first`.

    Raises:
        AskedError: something of another kind.
    """
    output = caller.encode(x, dtype)
    try:
        posterior = reading.posterior(output)
        return {name: getattr(posterior, name) for name in PARAMETERS[reading.family]}
    except ExternalError:
        raise
    except Exception as error:  # whatever comes of reading one thing as another
        raise AskedError(
            f"encode(x) returns {description(first)} in one call and {description(output)} in another: let it return "
            "the same kind of thing, of the same shape, each time"
        ) from error


def _alone(caller: Caller, reading: Reading, x: Tensor, first: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same of some images one by one.

    Raises:
        AskedError: what could be encoded among others cannot be alone.
    """
    try:
        return joined([_answer(caller, reading, row, first, dtype) for row in x[:NUM_ALONE].split(1)])
    except AskedError:
        raise
    except ExternalError as error:
        raise AskedError(f"{OTHER_COMPANY}, with normalisation in evaluation mode ({error})") from error


def _other_call(caller: Caller, reading: Reading, x: Tensor, dtype: torch.dtype) -> str:
    """What an answer is that is another one the second time: a draw where the seed decides it, else what is kept."""
    codes = reading.family == "codes"
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        posteriors = []
        for _ in range(2):
            torch.manual_seed(0)
            posteriors.append(reading.posterior(caller.encode(x, dtype)))
    name = PARAMETERS[reading.family][0]
    one, other = (getattr(posterior, name) for posterior in posteriors)
    what = "codes" if codes else "numbers"
    if difference(name, one, other, caller.precision, few_codes=0.0) is not None:
        return (
            f"encode(x) of the same images returns other {what} the second time, whatever the seed: it keeps a "
            "count or a state; let it depend on x alone"
        )
    if codes:
        return "encode(x) of the same images returns other codes the second time: return the likeliest, not a draw"
    return (
        "encode(x) of the same images returns other numbers the second time, as a random draw does: return mean and "
        "log-variance"
    )


def _check_tells_apart(x: Tensor, posterior: Posterior, reading: Reading) -> None:
    """
    Raises:
        ExternalError: images that differ all have one code everywhere, or the same latents to the bit.
    """
    if bool((x == x[:1]).all()):
        return
    values: Tensor = getattr(posterior, PARAMETERS[reading.family][0])
    look = "look at the weights and at vae.range, or name another model, vae.module or vae.path"
    enough = values.numel() >= ENOUGH_CODES
    if reading.family == "codes" and enough and bool((values == values.flatten()[0]).all()):
        raise ExternalError(
            f"all {values.numel():,} codes of {len(x)} images are {int(values.flatten()[0])}: no prior can learn from "
            f"them, the encoder tells no image from another; {look}"
        )
    if reading.family != "codes" and bool((values == values[:1]).all()):
        raise ExternalError(f"encode(x) returns the same latents for {len(x)} images that differ; {look}")


def _check_same(one: Tensor, other: Tensor, precision: str, words: str) -> None:
    """
    Raises:
        AskedError: with `words`, where decoded images differ by more than rounding makes them.
    """
    if (apart := difference("decode(z)", one, other, precision)) is not None:
        raise AskedError(f"{words} ({apart})")


@torch.no_grad()
def _decoded(caller: Caller, reading: Reading, z: Tensor, dtype: torch.dtype) -> Tensor | Distribution:
    """
    Raises:
        ExternalError: it is no image, or not finite.
    """
    decoded = caller.decode(reading.latents(z), dtype)
    if not bool(torch.isfinite(_mean(decoded)).all()):
        raise ExternalError("decode(z) makes NaN or infinity: look at the weights, and at vae.range and vae.precision")
    return decoded


def _mean(decoded: Tensor | Distribution) -> Tensor:
    if isinstance(decoded, BernoulliImage):
        return decoded.mean
    mean: Tensor = decoded if isinstance(decoded, Tensor) else decoded.mean
    return mean


@torch.no_grad()
def _decodes(caller: Caller, z: Tensor, dtype: torch.dtype) -> bool:
    """Whether `decode` takes z and makes images of the right size of it."""
    try:
        caller.decode(z, dtype)
    except SizeError:
        raise
    except ExternalError:
        return False
    return True


def _is_differentiable(caller: Caller, reading: Reading, z: Tensor, dtype: torch.dtype) -> bool:
    if not z.is_floating_point():
        return False
    try:
        with torch.enable_grad():
            image = replace(caller, keep=False).decode(reading.latents(z.detach().clone().requires_grad_()), dtype)
    except ExternalError:
        return False
    return _mean(image).requires_grad
