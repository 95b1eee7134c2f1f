"""A fitted prior by itself: arrays of latents in, samples and densities out, no autoencoder needed.

    prior, report = fit_prior(LatentDataset.of(loc, log_std), "mixture", num_components=100)
    prior.save("my_prior")
    z = LearnedPrior.load("my_prior").sample(64)  # [64, *latent], in the units of what it was fitted to

What `save` writes is read as any export of ours is: nothing in it can run code.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from expost.config.schema import Node
from expost.export.config import CONFIG, PRIOR_FILE, ExportedPrior, load_prior, read_config, seal
from expost.store.manifest import file_sha256
from expost.store.safe import UnsafeError
from stage1_vae.base_priors import UniformCodes
from stage1_vae.data.labels import class_number
from stage1_vae.latents import LatentSpec, Support
from stage2_prior.fitting import FitReport
from stage2_prior.prior import Prior
from stage2_prior.sampling import Sampling

MAX_DRAWS = 1000
"""Latents drawn at once."""


@dataclass(frozen=True)
class Fitted:
    """How a prior was fitted.

    Attributes:
        name: in `conf/prior/`.
        node: the section of the configuration.
        report: of the fit.
    """

    name: str
    node: Node
    report: FitReport


class LearnedPrior:
    """A density over latents [N, *latent], which was fitted to some.

    Everything random uses torch's global generator: `torch.manual_seed` repeats it.

    Args:
        prior: fitted.
        class_names: what the classes of the latents are called; empty: they are numbers from 0.
        description: what rebuilds it, without its weights: the content of `config.json`; without, it cannot be saved.
        fitted: how it was fitted; None: it was loaded.
    """

    def __init__(
        self,
        prior: Prior,
        class_names: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
        fitted: Fitted | None = None,
    ) -> None:
        self.prior, self.description, self.fitted = prior.eval(), description, fitted
        self.class_names = tuple(class_names) or tuple(map(str, range(prior.num_classes)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "LearnedPrior":
        """The prior in a folder that `save`, or `stage=export` of latents, wrote; on the CPU.

        Raises:
            ValueError: in one line, when there is none, it is damaged, or it is not safe to load.
        """
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UnsafeError(f"{folder} is no folder; write one with prior.save({str(folder)!r})")
        config = read_config(folder)
        if not isinstance(config, ExportedPrior):
            raise UnsafeError(f"{folder} holds a model with an autoencoder; load it with TwoStage.load")
        description = config.model_dump(exclude={"files", "sha256"})
        return cls(load_prior(folder, config), config.class_names, description)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the prior into the new folder `path`, whole or not at all.

        Raises:
            ValueError: there is something already, or the folder cannot be written.
        """
        place = Path(path).expanduser().absolute()
        if self.description is None:
            raise ValueError("this prior belongs to a model; stage=export writes all of it")
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise ValueError(f"{place} is there already; give a new folder")
        scratch = place.parent / f".{place.name}.{secrets.token_hex(8)}"
        try:
            scratch.mkdir()
            write_prior(scratch, self.prior, self.description)
            os.replace(scratch, place)
        except OSError as error:
            raise ValueError(f"{place} cannot be written: {error.strerror}; choose another folder") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @property
    def spec(self) -> LatentSpec:
        """What one latent is."""
        return self.prior.spec

    @property
    def fractions(self) -> tuple[float, float] | None:
        """Of the latents that it was fitted to, what was held out for validation and test; None: another way."""
        known = (self.description or {}).get("fractions")
        return None if known is None else (known[0], known[1])

    @property
    def device(self) -> torch.device:
        return self.prior.anchor.device

    def to(self, device: torch.device | str) -> "LearnedPrior":
        """This prior, moved there."""
        self.prior.to(device)
        return self

    @torch.no_grad()
    def sample(
        self,
        n: int,
        label: int | str | Sequence[str] | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: float = 0.0,
        truncation: float = 1.0,
    ) -> Tensor:
        """n latents [n, *latent], in the units of those that it was fitted to.

        Args:
            n: how many.
            label: a class for all, by its name (of `class_names`; where these are words, its number will do), or one
                for each, as a list of names or int64 [n]; of a prior that was fitted with `conditional=True`. None: all
                classes, as often as among the training latents.
            temperature, top_k, top_p, guidance, truncation: of `stage2_prior.sampling.Sampling`; what the prior can
                follow of these is `prior.knobs`, and truncation.

        Raises:
            ValueError: in one line: n is negative, a class that the prior does not know, a number out of range, or what
                this prior cannot follow.
        """
        how = Sampling(temperature, top_k, top_p, guidance, truncation)
        labels = None if label is None else self._labels(n, label)
        sizes = [min(MAX_DRAWS, n - start) for start in range(0, n, MAX_DRAWS)] or [n]
        context = [None] * len(sizes) if labels is None else labels.split(MAX_DRAWS)
        return torch.cat([self.prior.sample(size, y, how) for size, y in zip(sizes, context, strict=True)])

    @torch.no_grad()
    def log_prob(self, z: Tensor | np.ndarray, label: int | str | Sequence[str] | Tensor | None = None) -> Tensor:
        """log p(z), or log p(z|label), in nats of the latents' own units: z [N, *latent] -> [N].

        Raises:
            ValueError: latents of another shape, codes that are none of the codebook, or classes as for `sample`.
        """
        z = self.check_latents(torch.as_tensor(z))
        labels = None if label is None else self._labels(len(z), label).to(self.device)
        context = [None] * -(-len(z) // MAX_DRAWS) if labels is None else labels.split(MAX_DRAWS)
        blocks = zip(z.split(MAX_DRAWS), context, strict=True) if len(z) else ()
        return torch.cat([self.prior.log_prob(block, y) for block, y in blocks]) if len(z) else torch.zeros(0)

    def _labels(self, n: int, label: int | str | Sequence[str] | Tensor) -> Tensor:
        """The number of the class of each sample, [n].

        Raises:
            ValueError: they are not, or not of this prior's classes.
        """
        are_numbered = self.class_names == tuple(map(str, range(len(self.class_names))))  # and called by their numbers
        if isinstance(label, (np.ndarray, np.generic)):
            label = label.tolist()
        if isinstance(label, str) and self.prior.num_classes:
            label = class_number(label, self.class_names)
        elif isinstance(label, (list, tuple)) and label and all(type(name) in (int, str) for name in label):
            label = torch.tensor([class_number(name, self.class_names) for name in label])
        elif not are_numbered and isinstance(label, (int, Tensor)) and not isinstance(label, bool):
            label = self._class_numbers(torch.as_tensor(label))
        try:
            given = torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"label={label!r}: give one class, or one for each: [{n}]") from error
        if given.ndim > 1 or (given.ndim == 1 and len(given) != n):
            raise ValueError(f"label is {tuple(given.shape)}; give one class, or one for each: [{n}]")
        self.prior.check_labels(given.reshape(-1))
        return given.expand(max(n, 0)) if given.ndim == 0 else given

    def _class_numbers(self, labels: Tensor) -> Tensor:
        """Class numbers of whole numbers that name classes."""
        if labels.is_floating_point() or labels.dtype == torch.bool or not self.prior.num_classes:
            return labels
        names, place = labels.unique(return_inverse=True)
        return torch.tensor([class_number(name, self.class_names) for name in names.tolist()])[place]

    def check_latents(self, z: Tensor) -> Tensor:
        """z on this prior's device: codes int64, all else float32.

        Raises:
            ValueError: another shape, or codes that are none of the codebook.
        """
        if z.shape[1:] != self.spec.shape:
            raise ValueError(f"z is {tuple(z.shape)}; expected [B, {', '.join(map(str, self.spec.shape))}]")
        if self.spec.support is not Support.CODES:
            return z.to(self.device, torch.float32)
        if z.is_floating_point() or z.dtype == torch.bool:
            raise ValueError(f"z is {z.dtype}; expected codes, which are whole numbers")
        z = z.to(self.device, torch.int64)  # a byte would be taken for a mask
        wrong = z[(z < 0) | (z >= UniformCodes(self.spec).sizes.to(self.device))]
        if len(wrong):
            sizes = " and ".join(f"{size:,}" for size in dict.fromkeys(self.spec.num_codes))
            raise ValueError(f"z has the code {wrong[0]:,}; the codebook has {sizes} codes, counted from 0")
        return z


def write_prior(folder: Path, prior: Prior, description: Mapping[str, Any]) -> None:
    """The files of a prior alone into the empty `folder`.

    Raises:
        OSError: they cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in prior.state_dict().items()}
    save_file(state, folder / PRIOR_FILE)
    file = folder / PRIOR_FILE
    files = {PRIOR_FILE: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}}
    content = seal({**description, "files": files})
    (folder / CONFIG).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(folder.stat().st_mode & 0o666)  # as the umask says; safetensors makes private files
