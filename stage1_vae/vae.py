"""A variational autoencoder and its relatives: encoder, bottleneck, decoder, likelihood.

x -> encoder -> features -> bottleneck -> q(z|x) -> z -> decoder -> likelihood -> p(x|z)
"""

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.autoencoder import Autoencoder
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.files import LatentWriter
from stage1_vae.latents.spec import PARAMETERS, LatentDensity, LatentSpec
from stage1_vae.likelihoods import Likelihood
from stage1_vae.net import Net

ENCODE_VERSION = 1
"""Part of the key of what `encode` makes; raised whenever its results change."""


class VAE(Autoencoder):
    """An autoencoder that is trained here.

    Args:
        image_shape: (C, H, W).
        net: recipe of the encoder and decoder pair.
        bottleneck: makes the bottleneck from the encoder's `features_shape`.
        likelihood: turns the decoder's output into p(x|z).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        net: Net,
        bottleneck: Callable[..., Bottleneck],
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.encoder = net.encoder(image_shape)
        self.bottleneck = bottleneck(features_shape=self.encoder.features_shape)
        channels, height, width = image_shape
        self.decoder = net.decoder(self.bottleneck.decoder_shape, (likelihood.num_params * channels, height, width))
        self.likelihood = likelihood

    @property
    def spec(self) -> LatentSpec:
        return self.bottleneck.spec

    @property
    def family(self) -> str:
        return self.bottleneck.family

    @property
    def base_prior(self) -> LatentDensity | None:
        return self.bottleneck.base_prior

    def encode(self, x: Tensor) -> Encoding:
        """x [B, C, H, W] -> q(z|x), batch [B]."""
        return self.bottleneck(self.encoder(x))

    def embed(self, z: Tensor) -> Tensor:
        """[B, *latent] -> [B, *bottleneck.decoder_shape]."""
        return self.bottleneck.embed(z)

    def decode_embedded(self, h: Tensor) -> Distribution:
        return self.likelihood(self.decoder(h).float())

    def forward(self, x: Tensor) -> tuple[Encoding, Tensor, Distribution]:
        """One draw: q(z|x), z ~ q(z|x) [B, *latent], p(x|z)."""
        encoding = self.encode(x)
        z = encoding.posterior.rsample()  # [B, *latent]
        if encoding.embedded is None:
            return encoding, z, self.decode(z)
        return encoding, z, self.decode_embedded(encoding.embedded)


@torch.no_grad()
def encode(
    vae: Autoencoder, batches: Iterable[tuple[Tensor, Tensor | None]], writer: LatentWriter, rows: range | None = None
) -> None:
    """The one encoding loop: q(z|x_i) of every image of `batches`, in its order, into `rows` of `writer`.

    Args:
        vae: on the device to compute on; switched to evaluation mode.
        batches: pairs of x [B, C, H, W] and labels [B] or None, in a fixed order.
        writer: where they go; its header is left to the caller.
        rows: a stretch of the data set, for a process that encodes a part of it; None: all.

    Raises:
        ValueError: the batches hold more or fewer images than there are rows.
    """
    vae.eval()
    rows = range(writer.num) if rows is None else rows
    done = rows.start
    for x, labels in batches:
        if done + len(x) > rows.stop:
            raise ValueError(f"more than {len(rows)} images for the rows {rows.start} to {rows.stop}")
        params = stored_params(vae.encode(x.to(vae.device)).posterior, writer.family, noise_seed(x))
        # Real numbers in float32, whatever the net computed in; codes as they are.
        params = {name: value.float() if value.is_floating_point() else value for name, value in params.items()}
        writer.write(done, params, labels)
        done += len(x)
    if done != rows.stop:
        raise ValueError(f"{done - rows.start} images for {len(rows)} rows")


def noise_seed(x: Tensor) -> int:
    """Of the draws that are stored of images x: the same again for the same images, and of no other ones. A prior that
    is fitted to stored draws must not know the noise that it is judged with."""
    digest = hashlib.sha256(x.cpu().contiguous().numpy().tobytes()).digest()
    return int.from_bytes(digest[:7], "little")


def stored_params(posterior: Distribution, family: str, seed: int) -> dict[str, Tensor]:
    """What is stored of q(z|x), by name, [B, *latent] each; `seed`: of the noise of draws, and of nothing else."""
    names = PARAMETERS[family]
    if family != "draws":
        return {name: getattr(posterior, name) for name in names}
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return dict(zip(names, posterior.sample(torch.Size([len(names)])), strict=True))
