"""Trained models out of their artifacts, and into them."""

import json
from typing import Any

import torch
from safetensors.torch import load_file

from orchestration.assembly import Parts
from orchestration.stages import Run
from orchestration.store import Artifact
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of `module` as safetensors wants it: detached, contiguous, on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def trained_vae(job: Run, parts: Parts, artifact: Artifact) -> VAE:
    """The VAE with the artifact's weights: the same whether it was trained just now or years ago."""
    parts.vae.load_state_dict(load_file(artifact.path / "model.safetensors"))
    return parts.vae.to(job.device).eval()  # Lightning leaves a module on the CPU


def fitted_prior(job: Run, parts: Parts, artifact: Artifact) -> Prior:
    """The prior with the artifact's fitted state."""
    parts.prior.load_state_dict(load_file(artifact.path / "prior.safetensors"))
    return parts.prior.to(job.device).eval()


def histories(vae: Artifact, prior: Artifact) -> dict[str, Any]:
    """What training and fitting recorded, for curves and tables."""
    return {
        "vae": json.loads((vae.path / "history.json").read_text()),
        "fit": json.loads((prior.path / "fit.json").read_text()),
    }
