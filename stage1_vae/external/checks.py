"""What a model that is not ours must hold before anything is encoded with it, found on two images."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.external.autoencoder import check_finite, likeliest
from stage1_vae.external.calling import Caller, SizeError
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.readings import Reading
from stage1_vae.external.recognition import Asked, recognise
from stage1_vae.external.weights import copies, first_of, freeze, moved
from stage1_vae.latents.dataset import PARAMETERS
from stage1_vae.likelihoods import BernoulliImage

TOLERANCE = {"32": 1e-3, "bf16": 0.1}
"""By how many standard deviations of all its values one may differ in other company: kernels round differently."""
FEW_CODES = 0.02
"""Share of codes that rounding may change where two code vectors are equally near and an image is in other company."""
MULTIPLES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Studied:
    """What was found.

    Attributes:
        reading: of its latents.
        shape: of one latent event, as we keep it.
        decoded: of the two images, [2, C, H, W] or a distribution over them.
        is_differentiable: whether gradients go through the decoder.
        watched: names of the tensors that were there before anything was encoded.
    """

    reading: Reading
    shape: tuple[int, ...]
    decoded: Tensor | Distribution
    is_differentiable: bool
    watched: tuple[str, ...] = ()


def study(caller: Caller, x: Tensor, asked: Asked) -> Studied:
    """Recognise and check a model on two images x [2, C, H, W] of ours; afterwards it is frozen.

    Raises:
        ExternalError: it cannot be stage 1; with what to do.
    """
    freeze(caller.model)
    before = copies(caller.model)
    try:
        studied = _study(caller, x, asked)
    except ExternalError as error:
        if (remedy := _remedy(caller, x, asked)) is None:
            if isinstance(error, SizeError):
                raise ExternalError(f"{error}; {OWN_SIZE}") from error
            raise
        raise ExternalError(f"{error}; {remedy}") from error
    if names := moved(caller.model, before):
        raise ExternalError(
            f"encode and decode change what they compute with, in evaluation mode too: {first_of(names)}; let them "
            "leave parameters and buffers alone (of a quantiser, encode by what is meant for inference)"
        )
    return replace(studied, watched=tuple(before))


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
    posterior, again = reading.posterior(output), reading.posterior(caller.encode(x, dtype))
    alone = reading.posterior(caller.encode(x[:1], dtype))
    for name in PARAMETERS[reading.family]:
        values = getattr(posterior, name)
        check_finite(name, values)
        _check_same(name, values, getattr(again, name), caller.precision, _other_call(reading), few_codes=0.0)
        _check_same(name, values[:1], getattr(alone, name), caller.precision, OTHER_COMPANY)
    z = likeliest(posterior)
    decoded = _decoded(caller, reading, z, dtype)
    _check_same("decode(z)", _mean(decoded), _mean(_decoded(caller, reading, z, dtype)), caller.precision, OTHER_IMAGE)
    lone = _mean(_decoded(caller, reading, z[:1], dtype))
    _check_same("decode(z)", _mean(decoded)[:1], lone, caller.precision, OTHER_LATENTS)
    return Studied(reading, tuple(posterior.event_shape), decoded, _is_differentiable(caller, reading, z, dtype))


OWN_SIZE = "let decode(z) return the size that went in, or give images of another size"
OTHER_COMPANY = "an image alone is encoded differently than in a batch with others: let encode(x) see each by itself"
OTHER_LATENTS = "a latent alone is decoded differently than in a batch with others: let decode(z) see each by itself"
OTHER_IMAGE = "decode(z) of the same latents differs from call to call: let it return the mean of its images"


def _other_call(reading: Reading) -> str:
    if reading.family == "codes":
        return "encode(x) of the same images returns other codes the second time: return the likeliest, not a draw"
    return (
        "encode(x) of the same images returns other numbers the second time, as a random draw does: return mean and "
        "log-variance"
    )


def _check_same(
    name: str, one: Tensor, other: Tensor, precision: str, words: str, few_codes: float = FEW_CODES
) -> None:
    """
    Raises:
        ExternalError: with `words`, where they differ by more than rounding makes them; of codes, in a share above
            `few_codes`, which is 0 where the same is computed twice.
    """
    if not one.is_floating_point():
        share = float((one != other).double().mean()) if one.shape == other.shape else 1.0
        if share > few_codes:
            raise ExternalError(f"{words} ({100 * share:.2g} % of the codes differ)")
        return
    if one.shape != other.shape:
        raise ExternalError(f"{words} ({name}: {tuple(one.shape)} and {tuple(other.shape)})")
    apart = float((one - other).abs().max())
    if apart > TOLERANCE[precision] * float(one.double().std(correction=0)) + 1e-5 * (1 + float(one.abs().max())):
        raise ExternalError(f"{words} ({name} differs by {apart:.3g})")


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
