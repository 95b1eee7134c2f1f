"""Features from a net that the user brings: a TorchScript file, such as Inception for the standard FID.

The convention, which the file keeps on its side:

    input   float32 [B, 3, H, W], RGB in [0, 1], at the images' own size; grey images have their channel repeated
    output  float [B, D], one feature vector an image, the same D for every batch

Resizing, padding and normalising are part of the net: FID depends on them (Parmar, Zhang & Zhu, "On Aliased Resizing
and Surprising Subtleties in GAN Evaluation", 2022), so they belong to the file that the checksum names. With
Inception's pooled features of 2,048 dimensions, the resizing of its reference implementation and 10,000 samples, the
Frechet distance is the FID that the field reports.

TorchScript holds a program of tensor operations, not a pickle of Python objects: loading it runs no Python code. It is
still a program, so take it from where you trust it, and say which one with its SHA-256.
"""

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError

BATCH_SIZE = 50
VERSION = 1
"""Part of the key of what is computed with a file; raised whenever its results change."""


def checked_sha256(path: Path, expected: str | None) -> str:
    """The SHA-256 of the file, in hexadecimal digits.

    Raises:
        EvaluationError: it cannot be read, or is not what `expected` says.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EvaluationError(
            f"evaluation.features={path}: {error.strerror}; give a TorchScript file, or null"
        ) from error
    if expected is not None and digest != expected.lower():
        raise EvaluationError(
            f"evaluation.features={path} has SHA-256 {digest}, not {expected}: it is another file than the one that "
            "evaluation.features_sha256 names"
        )
    return digest


class FeatureFile:
    """A TorchScript net as a source of features.

    Args:
        path: the file.
        expected_sha256: what it must be; None: any.
        device: where to compute.

    Raises:
        EvaluationError: the file cannot be read, is another one, or holds no TorchScript net.
    """

    def __init__(self, path: Path, expected_sha256: str | None, device: torch.device | str) -> None:
        self.sha256 = checked_sha256(path, expected_sha256)
        self.name, self.device = path.name, torch.device(device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                self.net = torch.jit.load(path, map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(
                f"evaluation.features={path} holds no TorchScript net; write one: torch.jit.trace(net, x).save(FILE)"
            ) from error
        self.num_features: int | None = None

    @property
    def description(self) -> str:
        """What the features are, in words that stand beside every figure made with them."""
        dims = "" if self.num_features is None else f"{self.num_features:,} "
        return f"{dims}features of {self.name} (SHA-256 {self.sha256})"

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        """Features of many images [N, 1 or 3, H, W] in [0, 1], in batches: [N, D] float32 on the CPU.

        Raises:
            EvaluationError: the net fails on the images, or what it returns is not [B, D].
        """
        return torch.cat([self._of_batch(x) for x in images.split(BATCH_SIZE)])

    def _of_batch(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise EvaluationError(f"evaluation.features={self.name} reads grey or RGB, not {x.shape[1]} channels")
        try:
            features = self.net(x.to(self.device, torch.float32).expand(-1, 3, -1, -1).contiguous())
        except Exception as error:  # a program of somebody else's: TorchScript's own error is no RuntimeError
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            shape = (3, *x.shape[2:])
            raise EvaluationError(
                f"evaluation.features={self.name} cannot read float32 images {shape} in [0, 1]: {reason}"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(x):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise EvaluationError(f"evaluation.features={self.name} returned {got}, not [{len(x)}, D]")
        if self.num_features not in (None, features.shape[1]):
            raise EvaluationError(
                f"evaluation.features={self.name} returned {features.shape[1]} features after {self.num_features}"
            )
        self.num_features = features.shape[1]
        return features.float().cpu()
