"""Exported models that mean harm: name -> what to change or write, and the words it is refused with."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.checkpoints import Bomb

from expost.export.config import CONFIG, PRIOR_FILE, VAE_FILE

Attack = Callable[[Path], object]

TARGETS = (
    *("os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "pickle.loads", "nt.system"),
    *("importlib.import_module", "shutil.rmtree", "torch.load", "torch.hub.load", "hydra.utils.instantiate"),
    *("stage1_vae.latents.json.loads", "stage1_vae.latents.np.load", "stage1_vae.training.train.sys.modules.os.system"),
    *("stage1_vae.latents.Path", "stage1_vae.vae.Net", "stage1_vae.latents.torch.load", "stage1_vae.latents.np"),
    *("stage1_vae.training.module.pl.Trainer", "stage2_prior.prior.LatentSpec", "stage2_prior.prior.np.f2py.os.system"),
    *("stage1_vae.nets.mlp.MLP.__init__.__globals__", "stage1_vae.nets.mlp.layers", "stage1_vae.nets.mlp.ACTIVATIONS"),
    *("stage1_vae.nets.mlp.math", "stage1_vae.nets.mlp.__loader__", "stage1_vae.nets.mlp.__class__"),
    *("stage1_vae.__path__.x",),
    *("stage1_vae.net.Net", "stage1_vae.bottleneck.Bottleneck", "stage1_vae.likelihoods.Likelihood"),
    *("stage2_prior.prior.Prior",),
    *("stage1_vae.vae.VAE", "stage1_vae.objectives.elbo.ELBO", "stage1_vae.data.arrays.Arrays", "torch.nn.Linear"),
    *("torch.nn.Module", "torch.nn.modules.module.warnings.sys", "torch.nn.modules.os.system"),
    *("torch.optim.sgd.torch.load",),
    *("torch.optim.SGD", "torch.nn.functional.torch.load", "torch.nn.utils.rnn.warnings", "zuko.flows.os.system"),
    *("stage1_vaeevil.x", "stage1_vae", "stage1_vae.", ".stage1_vae.x", "stage1_vae..nets.mlp.MLP", "", "x" * 10_000),
    *("stage1_vae.nets.mlp.ＭＬＰ", "stage1_vae.nets.mlp.MLP\n", "stage1_vae/nets/mlp.MLP", "../../stage1_vae.x"),
    *("__main__.x", "zuko.os"),
    *(None, 3, True, ["os", "system"], {"_target_": "os.system"}),
)  # fmt: skip


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "nested target": (
        lambda c: c["net"].update(activation={"_target_": "os.system", "command": "touch canary"}), "activation"),
    "constructor of another": (lambda c: c["net"].update(_partial_=True), "_partial_"),
    "injected key": (lambda c: c["bottleneck"].update(features_shape=[8]), "features_shape"),
    "terabytes of weights": (lambda c: c["net"].update(hidden=[2**20, 2**20]), "asks for"),
    "more than an address": (lambda c: c["net"].update(hidden=[2**62]), "cannot be built"),
    "more than a number": (lambda c: c["net"].update(hidden=[10**400]), "cannot be built"),
    "no width": (lambda c: c["net"].update(hidden=[-3]), "hidden"),
    "endless layers": (lambda c: c["net"].update(hidden=[1] * 200_000), "more layers"),
    "endless blocks": (
        lambda c: (c.update(net={"_target_": "stage1_vae.nets.resnet.ResNet", "channels": [4], "num_blocks": 10**9}),
                   c["versions"].update({"stage1_vae.nets.resnet.ResNet": 1})), "more layers"),
    "endless strides": (
        lambda c: (c.update(net={"_target_": "stage1_vae.nets.conv.Conv", "channels": [4] * 100_000}),
                   c["versions"].update({"stage1_vae.nets.conv.Conv": 1})), "more layers|cannot be built"),
    "huge latent": (lambda c: c["bottleneck"].update(latent_dim=2**40), "cannot be built|latents"),
    "huge mixture": (
        lambda c: (c.update(prior={"_target_": "stage2_prior.priors.mixture.Mixture", "num_components": 2**36}),
                   c["versions"].update({"stage2_prior.priors.mixture.Mixture": 1})), "asks for|cannot be built"),
    "huge image": (lambda c: c.update(image_shape=[1, 2**20, 2**20]), "image_shape"),
    "flat image": (lambda c: c.update(image_shape=[64]), "image_shape"),
    "empty image": (lambda c: c.update(image_shape=[1, 0, 8]), "image_shape"),
    "half an image": (lambda c: c.update(image_shape=[1, 8.5, 8]), "image_shape"),
    "another latent": (lambda c: c["latent"].update(shape=[4]), "latent"),
    "no latent": (lambda c: c.update(latent={}), "cannot be built"),
    "inverted pixels": (lambda c: c.update(pixel_range=[1.0, 0.0]), "pixel_range"),
    "many wrappers": (lambda c: c.update(wrap=c["wrap"] * 1000), "wrappers"),
    "prior as wrapper": (lambda c: c.update(wrap=["stage2_prior.priors.gaussian.Gaussian"]), "cannot be built"),
    "unknown version": (lambda c: c["versions"].clear(), "version None"),
    "contradiction": (lambda c: c["preprocess"].update(binarize="dynamic", dequantize=True), "preprocess"),
    "unknown key": (lambda c: c.update(command="touch canary"), "command"),
    "missing key": (lambda c: c.pop("net"), "net"),
    "another format": (lambda c: c.update(format="expost two-stage model, 2"), "format|is no"),
    "file elsewhere": (lambda c: c["files"].update({"../../etc/passwd": c["files"][VAE_FILE]}), "files must be"),
    "file above": (lambda c: c.update(files={f"../{VAE_FILE}": c["files"][VAE_FILE]}), "files must be"),
    "another hash": (lambda c: c["files"][VAE_FILE].update(sha256="0" * 64), "sha256"),
    "no hash": (lambda c: c["files"][VAE_FILE].update(sha256=None), "sha256"),
}  # fmt: skip


TEXTS: dict[str, tuple[bytes, str]] = {
    "NaN": (b'{"format": NaN}', "NaN"),
    "infinity": (b'{"format": -Infinity}', "-Infinity"),
    "overflow": (b'{"format": 1e999}', "1e999"),
    "deep list": (b'{"format": ' + b"[" * 400_000 + b"]" * 400_000 + b"}", "nested deeper"),
    "deep object": (b'{"a":' * 150_000 + b"1" + b"}" * 150_000, "nested deeper"),
    "unclosed": (b"[" * 900_000, "nested deeper"),
    "unclosed string": (b'{"' + b'\\"' * 400_000, "no JSON"),
    "long number": (b'{"format": ' + b"9" * 100_000 + b"}", "no JSON"),
    "twice": (b'{"format": 1, "format": 2}', "stands twice"),
    "too large": (b" " * (2**20 + 1), "bytes"),
    "no text": (b"\xff\xfe{}", "no JSON"),
    "empty": (b"", "no JSON"),
    "a list": (b"[1, 2]", "no JSON object"),
    "yaml": (b"!!python/object/apply:os.system ['touch canary']", "no JSON"),
    "pickle": (pickle.dumps({"format": 1}), "no JSON"),
}


def header(entries: object, body: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(**changes: object) -> bytes:
    return header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}, b"\0" * 8)


WEIGHTS: dict[str, tuple[bytes, str]] = {
    "pickle": (pickle.dumps(Bomb()), "damaged"),
    "empty": (b"", "damaged"),
    "seven bytes": (b"\0" * 7, "damaged"),
    "a terabyte of header": (struct.pack("<Q", 2**40) + b"{}", "damaged"),
    "all ones": (b"\xff" * 64, "damaged"),
    "a terabyte of numbers": (one(shape=[2**38], data_offsets=[0, 2**40]), "damaged"),
    "a terabyte in eight bytes": (one(shape=[2**38]), "room"),
    "overflow to nothing": (one(shape=[2**62, 4]), "room"),
    "negative": (one(shape=[-2]), "valid shape"),
    "a truth": (one(shape=[True, 2]), "valid shape"),
    "a fraction": (one(shape=[2.0]), "valid shape"),
    "seventeen axes": (one(shape=[1] * 16 + [2]), "valid shape"),
    "unknown type": (one(dtype="OBJECT"), "unknown type"),
    "listed type": (one(dtype=["F32"]), "unknown type"),
    "more keys": (one(command="touch canary"), "no tensor"),
    "no entry": (header({"x": 3}), "no tensor"),
    "gap": (one(data_offsets=[4, 12]), "overlap or leave gaps"),
    "backwards": (one(data_offsets=[8, 0]), "room"),
    "overlap": (
        header({k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "xy"}, b"\0" * 8), "overlap"),
    "more behind": (one() + b"\0", "damaged"),
    "other tensors": (one(), "asks for"),
    "none": (header({}), "missing"),
    "deep header": (header(b"[" * 100_000), "nested deeper"),
    "twice": (header(b'{"x": 1, "x": 2}'), "stands twice"),
    "no header": (header(b"\xff\xff"), "no JSON"),
}  # fmt: skip


def _linked(name: str, target: str | None = None) -> Attack:
    def attack(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        os.replace(folder / name, outside)
        (folder / name).symlink_to(target or outside)

    return attack


def _instead(name: str, make: Callable[[Path], object]) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return attack


def link_within(folder: Path) -> None:
    os.replace(folder / VAE_FILE, folder / "a")
    (folder / VAE_FILE).symlink_to("a")


PLACES: dict[str, tuple[Attack, str]] = {
    **{f"link to {name}": (_linked(name), f"{name} is a symbolic link") for name in (CONFIG, VAE_FILE, PRIOR_FILE)},
    "link to a device": (_linked(VAE_FILE, "/dev/zero"), "symbolic link"),
    "link to itself": (_linked(VAE_FILE, VAE_FILE), "symbolic link"),
    "dangling link": (_linked(CONFIG, "nowhere"), "symbolic link"),
    "link within": (link_within, "symbolic link"),
    "pipe": (_instead(VAE_FILE, os.mkfifo), "no plain file"),
    "pipe as configuration": (_instead(CONFIG, os.mkfifo), "no plain file"),
    "folder": (_instead(VAE_FILE, os.mkdir), "no plain file"),
    "missing weights": (lambda f: (f / PRIOR_FILE).unlink(), "No such file"),
    "missing configuration": (lambda f: (f / CONFIG).unlink(), "No such file"),
    "missing folder": (shutil.rmtree, "is no folder"),
}
