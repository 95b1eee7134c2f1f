"""`vae=diffusers`: small nets of random weights, saved and loaded by diffusers itself."""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from outside.their_models import images
from safetensors.torch import load_file, save_file
from torch import Tensor

from stage1_vae.external.autoencoder import External
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.pretrained import Pretrained

KL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 3,
    "norm_num_groups": 4,
    "sample_size": 16,
}
TINY: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
    "latent_channels": 3,
}
DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": ("ResBlock",) * 2,
    "decoder_block_types": ("ResBlock",) * 2,
    "encoder_block_out_channels": (8, 16),
    "decoder_block_out_channels": (8, 16),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), ()),
    "decoder_qkv_multiscales": ((), ()),
    "scaling_factor": 0.41407,
}
VQ: dict[str, Any] = {k: v for k, v in KL.items() if k != "sample_size"} | {"num_vq_embeddings": 40}


def saved(folder: Path, name: str, **config: Any) -> Any:
    """The net of diffusers that was written into `folder`."""
    torch.manual_seed(0)
    net = getattr(diffusers, name)(**config).eval()
    net.save_pretrained(folder)
    return net


def opened(folder: Path, x: Tensor, **keys: Any) -> External:
    source = Pretrained(path=folder, **keys)
    return source.autoencoder(source.load(), x, 0)


X = images(3, channels=3, side=16)


@torch.no_grad()
def test_kl_gives_its_own_posterior(tmp_path: Path) -> None:
    net = saved(tmp_path, "AutoencoderKL", **KL, scaling_factor=1.0)
    autoencoder = opened(tmp_path, X)
    posterior: Any = autoencoder.encode(X).posterior
    theirs = net.encode(2 * X - 1).latent_dist
    assert autoencoder.spec.shape == (3, 8, 8) and autoencoder.family == "diagonal_normal"
    assert torch.equal(posterior.loc, theirs.mean) and torch.equal(posterior.log_std, theirs.logvar / 2)
    z = posterior.sample()
    torch.testing.assert_close(autoencoder.decode(z).mean, (net.decode(z).sample + 1) / 2)
    assert "AutoencoderKL in" in autoencoder.said and "[-1, 1]" in autoencoder.said


SCALES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "scale": ({"scaling_factor": 0.18}, 0.18, 0.0),
    "scale and shift": ({"scaling_factor": 0.36, "shift_factor": 0.12}, 0.36, 0.12),
    "means and deviations": (
        {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, 0.3], "latents_std": [1.0, 2.0, 4.0]},
        0.5 / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1),
        torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize(("config", "scale", "shift"), SCALES.values(), ids=SCALES.keys())
def test_scale_and_shift_are_folded_in(tmp_path: Path, config: dict[str, Any], scale: Any, shift: Any) -> None:
    net = saved(tmp_path, "AutoencoderKL", **KL, **config)
    loaded = Pretrained(path=tmp_path).load()
    autoencoder = opened(tmp_path, X)
    posterior: Any = autoencoder.encode(X).posterior
    theirs = net.encode(2 * X - 1).latent_dist
    torch.testing.assert_close(posterior.loc, (theirs.mean - shift) * scale)
    torch.testing.assert_close(posterior.variance.sqrt(), theirs.std * scale)
    torch.testing.assert_close(autoencoder.decode(posterior.loc).mean, (net.decode(theirs.mean).sample + 1) / 2)
    assert "config.json" in loaded.said[1]


@torch.no_grad()
def test_sizes_that_are_no_multiple_of_the_stride(tmp_path: Path) -> None:
    net = saved(tmp_path, "AutoencoderKL", **KL)
    x = images(2, channels=3, side=15)
    autoencoder = opened(tmp_path, x)
    assert autoencoder.spec.shape == (3, 8, 8) and "padded to 16x16" in autoencoder.said
    posterior: Any = autoencoder.encode(x).posterior
    theirs = net.encode(2 * F.pad(x, (0, 1, 0, 1), mode="replicate") - 1).latent_dist
    torch.testing.assert_close(posterior.loc, theirs.mean * 0.18215)
    assert autoencoder.decode(posterior.loc).mean.shape == x.shape


@torch.no_grad()
def test_tiny(tmp_path: Path) -> None:
    net = saved(tmp_path, "AutoencoderTiny", **TINY)
    autoencoder = opened(tmp_path, images(2, channels=3, side=14))
    assert autoencoder.spec.shape == (3, 4, 4) and autoencoder.family == "delta" and autoencoder.base_prior is None
    autoencoder = opened(tmp_path, X)
    z = autoencoder.encode(X).posterior.mean
    torch.testing.assert_close(z, net.encode(2 * X - 1).latents)
    torch.testing.assert_close(autoencoder.decode(z).mean, (net.decode(z).sample + 1) / 2)


@torch.no_grad()
def test_dc(tmp_path: Path) -> None:
    net = saved(tmp_path, "AutoencoderDC", **DC)
    autoencoder = opened(tmp_path, X)
    z = autoencoder.encode(X).posterior.mean
    assert autoencoder.spec.shape == (4, 8, 8) and autoencoder.family == "delta"
    torch.testing.assert_close(z, 0.41407 * net.encode(2 * X - 1).latent)
    assert opened(tmp_path, images(2, channels=3, side=13)).spec.shape == (4, 7, 7)


@torch.no_grad()
@pytest.mark.parametrize("norm_type", ["group", "spatial"])
def test_vq_gives_the_codes_of_its_quantiser(tmp_path: Path, norm_type: str) -> None:
    widths = {"block_out_channels": (32, 32)} if norm_type == "spatial" else {}  # which has groups of 32 throughout
    net = saved(tmp_path, "VQModel", **(VQ | widths), norm_type=norm_type)
    autoencoder = opened(tmp_path, X)
    spec = autoencoder.spec
    assert (spec.shape, spec.grids, spec.num_codes) == ((64,), ((8, 8),), (40,))
    codes = autoencoder.encode(X).posterior.sample()
    latents = net.encode(2 * X - 1).latents
    assert torch.equal(codes.flatten(), net.quantize(latents)[2][2].flatten())
    torch.testing.assert_close(
        autoencoder.decode(codes).mean, (net.decode(latents).sample + 1) / 2, atol=1e-5, rtol=1e-4
    )


def test_the_hash_is_of_weights_and_config(tmp_path: Path) -> None:
    saved(tmp_path, "AutoencoderTiny", **TINY)
    first = Pretrained(path=tmp_path).load()
    assert Pretrained(path=tmp_path).load().sha256 == first.sha256
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"_diffusers_version": "0.1"}), encoding="utf-8")
    assert Pretrained(path=tmp_path).load().sha256 == first.sha256
    (tmp_path / "config.json").write_text(json.dumps(config | {"scaling_factor": 2.0}), encoding="utf-8")
    assert Pretrained(path=tmp_path).load().sha256 != first.sha256
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    tensors["encoder.layers.0.bias"] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    assert Pretrained(path=tmp_path).load().sha256 != first.sha256


def test_weights_of_several_kinds(tmp_path: Path) -> None:
    net = saved(tmp_path, "AutoencoderTiny", **TINY)
    net.save_pretrained(tmp_path, variant="non_ema")
    assert "beside them lie non_ema: vae.variant takes those" in Pretrained(path=tmp_path).load().said
    assert "weights non_ema" in Pretrained(path=tmp_path, variant="non_ema").load().said
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert "weights non_ema" in Pretrained(path=tmp_path).load().said
    net.save_pretrained(tmp_path, variant="fp16")
    assert "the weights fp16, non_ema: give vae.variant=fp16" in refusal(tmp_path)
    with pytest.raises(ExternalError, match=r"vae.variant=ema: .* holds fp16, non_ema"):
        Pretrained(path=tmp_path, variant="ema").load()


def test_the_autoencoder_of_a_pipeline(tmp_path: Path) -> None:
    saved(tmp_path / "vae", "AutoencoderTiny", **TINY)
    assert Pretrained(path=tmp_path).load().name.endswith("vae")


def refusal(path: Path | None) -> str:
    with pytest.raises(ExternalError) as caught:
        Pretrained(path=path).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert "vae.path is missing" in refusal(None)
    assert "there is no such folder" in refusal(tmp_path / "none")
    assert "holds no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert "is no JSON object" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}', encoding="utf-8")
    assert "of the class UNet2DModel; known are AutoencoderKL" in refusal(tmp_path)
    net = saved(tmp_path, "AutoencoderTiny", **TINY)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert str(tmp_path) in refusal(tmp_path)
    file.unlink()
    torch.save(net.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    assert "holds no diffusion_pytorch_model.safetensors" in refusal(tmp_path)


def test_without_diffusers_it_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "AutoencoderTiny", **TINY)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert refusal(tmp_path) == "vae=diffusers needs diffusers: pip install 'expost[diffusers]'"
