"""Trained models out of their artifacts, and into them."""

from dataclasses import dataclass, fields

import torch

from expost.parts.assembly import Parts
from expost.store.artifacts import Artifact
from expost.store.safe import read_json
from expost.store.tensors import layouts, read_tensors
from stage1_vae.autoencoder import Autoencoder
from stage2_prior.fitting import FitReport
from stage2_prior.prior import Prior

MAX_HISTORY_BYTES = 2**26
PRIOR_WEIGHTS = "prior.safetensors"
LEARNED_WEIGHTS = "learned.safetensors"
"""Of a prior that was learned with the VAE, in its artifact."""


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of `module` as safetensors wants it: whole, detached, contiguous, on the CPU. All ranks ask for it."""
    from torch.distributed.tensor import DTensor  # costs half a second, and only who has trained asks for it

    state = {name: v.full_tensor() if isinstance(v, DTensor) else v for name, v in module.state_dict().items()}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def trained_vae(parts: Parts, artifact: Artifact, device: torch.device) -> Autoencoder:
    """The VAE with the artifact's weights: the same whether it was trained just now or years ago."""
    vae = parts.of_images.vae
    fill(vae, artifact, "model.safetensors")
    return vae.to(device).eval()  # Lightning leaves a module on the CPU


def fitted_prior(parts: Parts, artifact: Artifact, device: torch.device) -> Prior:
    """The prior with the artifact's fitted state."""
    fill(parts.prior, artifact, PRIOR_WEIGHTS)
    return parts.prior.to(device).eval()


def fill(module: torch.nn.Module, artifact: Artifact, name: str) -> None:
    """Give `module` the state in the file `name` of `artifact`."""
    module.load_state_dict(read_tensors(artifact.path, name, layouts(module), None))  # its hash was compared by `find`


@dataclass(frozen=True)
class Histories:
    """What training and fitting recorded, for curves and tables: figures an epoch, and what the fit reported."""

    vae: list[dict[str, float]]
    fit: FitReport


def histories(vae: Artifact | None, prior: Artifact) -> Histories:
    """Those of two artifacts; `vae` None: of latents that somebody else has encoded, nothing."""
    fit = read_json(prior.path, "fit.json", MAX_HISTORY_BYTES)
    report = FitReport(**{field.name: fit[field.name] for field in fields(FitReport) if field.name in fit})
    if vae is None:
        return Histories([], report)
    return Histories(read_json(vae.path, "history.json", MAX_HISTORY_BYTES, list), report)
