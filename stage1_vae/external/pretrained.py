"""Autoencoders of diffusers, from the folder that its `save_pretrained` writes.

Their latents are those that priors of that library see: (z - shift) * scale, of what `encode` returns, with scale and
shift from the model's own configuration; pipelines apply both, `encode` and `decode` do not.
"""

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stage1_vae.external.errors import ExternalError, blaming
from stage1_vae.external.source import ExternalSource, Loaded, counted
from stage1_vae.external.weights import freeze, sha256, tensors
from stage1_vae.posteriors import DiagonalNormal

CONFIG = "config.json"
MAX_CONFIG_BYTES = 2**20
WEIGHTS = "diffusion_pytorch_model"


class Folded(nn.Module):
    """A model of diffusers, its scale and shift folded in.

    Args:
        net: the model.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        config = net.config
        shift, std = (_channels(config.get(name)) for name in ("latents_mean", "latents_std"))
        shift = _channels(config.get("shift_factor")) if shift is None else shift
        scale = _channels(config.get("scaling_factor"))
        scale = torch.ones(1, 1, 1) if scale is None else scale
        self.register_buffer("shift", torch.zeros(1, 1, 1) if shift is None else shift)
        self.register_buffer("scale", scale if std is None else scale / std)
        if not bool((self.scale > 0).all()):
            raise ExternalError(f"{CONFIG}: a scaling_factor or latents_std of zero or less scales no latents")

    @property
    def words(self) -> str:
        """What is folded in, for people; empty where that is nothing."""
        if bool((self.scale == 1).all()) and bool((self.shift == 0).all()):
            return ""
        numbers = [f"{x.item():.4g}" if x.numel() == 1 else f"{x.numel()} numbers" for x in (self.shift, self.scale)]
        return f"latents are (z - {numbers[0]}) * {numbers[1]}, as its config.json says"

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels of one latent place."""

    @abstractmethod
    def encode(self, x: Tensor) -> Any:
        """What is recognised."""

    def decode(self, z: Tensor) -> Tensor:
        """[B, C, h, w], scaled -> images."""
        image: Tensor = self.net.decode(z / self.scale + self.shift, return_dict=False)[0]
        return image


class FoldedKL(Folded):
    """AutoencoderKL: means and log-variances, the latter between -30 and 20 as there."""

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.net.config.block_out_channels) - 1))

    def encode(self, x: Tensor) -> DiagonalNormal:
        posterior = self.net.encode(x, return_dict=False)[0]
        loc = (posterior.mean.float() - self.shift) * self.scale
        return DiagonalNormal(loc, posterior.logvar.float() / 2 + self.scale.log())


class FoldedDC(Folded):
    """AutoencoderDC: points."""

    @property
    def stride(self) -> int:
        return int(self.net.spatial_compression_ratio)

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.net.encode(x, return_dict=False)[0]
        return (z.float() - self.shift) * self.scale


class FoldedTiny(FoldedDC):
    """AutoencoderTiny: points; the 256 levels of its `forward` are no part of it."""

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.net.config.num_encoder_blocks) - 1))


class FoldedVQ(Folded):
    """VQModel: the codes of its quantiser, [B, h, w], which its own `encode` leaves to `decode`; it has no scale."""

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.net.config.block_out_channels) - 1))

    @property
    def num_codes(self) -> int:
        return int(self.net.quantize.re_embed)

    @property
    def words(self) -> str:
        return ""

    def encode(self, x: Tensor) -> Tensor:
        h = self.net.encode(x, return_dict=False)[0].float()
        codes: Tensor = self.net.quantize(h)[2][2]
        return codes.reshape(len(h), *h.shape[2:])

    def decode(self, z: Tensor) -> Tensor:
        """int64 [B, h, w] -> images; not through the model's own `decode`, which quantises what it is given."""
        vectors = self.net.quantize.get_codebook_entry(z.flatten(), (*z.shape, self.net.quantize.vq_embed_dim))
        spatial = vectors if self.net.config.norm_type == "spatial" else None
        image: Tensor = self.net.decoder(self.net.post_quant_conv(vectors), spatial)
        return image


CLASSES: dict[str, Callable[[Any], Folded]] = {
    "AutoencoderKL": FoldedKL,
    "AutoencoderDC": FoldedDC,
    "AutoencoderTiny": FoldedTiny,
    "VQModel": FoldedVQ,
}
"""What `_class_name` of a config.json may be, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Pretrained(ExternalSource):
    """`vae=diffusers vae.path=FOLDER`.

    Attributes:
        path: the folder with config.json and the weights, or that of a pipeline with a `vae` in it.
        variant: which weights, where several lie there, such as "fp16" or "non_ema"; None: those without such a word.
    """

    path: Path | None = None
    variant: str | None = None

    usual_range = (-1.0, 1.0)

    def load(self) -> Loaded:
        if self.path is None:
            raise ExternalError(f"vae.path is missing: give the folder with {CONFIG} and {WEIGHTS}.safetensors")
        folder = _folder(self.path.expanduser())
        config = _config(folder)
        name = config.get("_class_name")
        if name not in CLASSES:
            raise ExternalError(f"{folder / CONFIG} is of the class {name}; known are {', '.join(CLASSES)}")
        variant, others = self._variant(folder)
        model = CLASSES[name](_net(name, folder, variant))
        freeze(model)
        weights = tensors(model)
        source = json.dumps(
            {key: value for key, value in config.items() if key != "_diffusers_version"}, sort_keys=True
        )
        said = [f"{name}, {counted(model)}", *([model.words] if model.words else [])]
        said += [f"weights {variant}"] if variant else []
        said += [f"beside them lie {', '.join(others)}: vae.variant takes those"] if others else []
        return Loaded(model, f"{name} in {folder}", sha256(weights, [source.encode()]), sha256(weights), tuple(said))

    def _variant(self, folder: Path) -> tuple[str | None, list[str]]:
        """Which weights are taken, and which others lie there.

        Raises:
            ExternalError: there are none, or one must be chosen.
        """
        words = {path.name.removeprefix(WEIGHTS).split(".")[1] for path in folder.glob(f"{WEIGHTS}*.safetensors")}
        found = sorted(word for word in words if word != "safetensors")
        if self.variant is not None and self.variant not in found:
            raise ExternalError(f"vae.variant={self.variant}: {folder} holds {', '.join(found) or 'no variants'}")
        if self.variant is not None or "safetensors" in words:
            return self.variant, [word for word in found if word != self.variant]
        if not found:
            raise ExternalError(
                f"{folder} holds no {WEIGHTS}.safetensors, and nothing else is read: save the model again, "
                f"model.save_pretrained({str(folder)!r}, safe_serialization=True)"
            )
        if len(found) > 1:
            raise ExternalError(f"{folder} holds the weights {', '.join(found)}: give vae.variant={found[0]}")
        return found[0], []

    def stride(self, model: Any) -> int:
        return int(model.stride)


def _folder(path: Path) -> Path:
    """The folder itself, or the one with the autoencoder of a pipeline."""
    if not path.is_dir():
        raise ExternalError(f"vae.path={path}: there is no such folder; give the one that save_pretrained wrote")
    for folder in (path, path / "vae", path / "vqvae", path / "movq"):
        if (folder / CONFIG).is_file():
            return folder
    raise ExternalError(f"{path} holds no {CONFIG}; give the folder that save_pretrained of the autoencoder wrote")


def _config(folder: Path) -> dict[str, Any]:
    with (folder / CONFIG).open("rb") as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    try:
        config = json.loads(content) if len(content) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ExternalError(f"{folder / CONFIG} is no JSON object; save the model again with save_pretrained")
    return config


def _net(name: str, folder: Path, variant: str | None) -> Any:
    """The model of diffusers, on the CPU, float32."""
    try:
        with blaming("importing diffusers", keep=False):
            cls = getattr(import_module("diffusers"), name)
    except ExternalError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == "diffusers":
            raise ExternalError("vae=diffusers needs diffusers: pip install 'expost[diffusers]'") from error
        raise
    logging = import_module("diffusers.utils.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of keys that its own save_pretrained writes
    try:
        with blaming(f"{folder}"):
            return cls.from_pretrained(
                folder,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=False,
            )
    finally:
        logging.set_verbosity(verbosity)


def _channels(value: Any) -> Tensor | None:
    """A number, or one a channel, float32 [C, 1, 1]."""
    return None if value is None else torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
