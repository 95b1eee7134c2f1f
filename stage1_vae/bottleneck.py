"""What stands between encoder features and the decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from stage1_vae.latents.spec import LatentDensity, LatentSpec


@dataclass(frozen=True)
class Encoding:
    """What an encoder says of a batch of images.

    Attributes:
        posterior: q(z|x), batch [B], event `spec.shape`.
        penalty: [B], what the bottleneck itself adds to the loss, in nats; None for nothing.
        embedded: [B, *decoder_shape], what the decoder is given in training where z itself carries no gradient (codes:
            the code vectors, straight through; relaxed codes); None: z, embedded.
    """

    posterior: Distribution
    penalty: Tensor | None = None
    embedded: Tensor | None = None


class Bottleneck(nn.Module, ABC):
    """Features [B, *features_shape] -> Encoding.

    Beside what a user chooses, each takes `features_shape`, the shape of the encoder's features (of codes: a map
    (C, h, w)), and `num_classes`, of the labels that travel beside the latents; 0: none.

    Attributes:
        spec: what one latent event is.
        family: the name of its posterior in `stage1_vae.latents.FAMILIES`.
        base_prior: what stage 1 trains against and the baseline of every table: N(0, I), uniform codes, ...; None
            where the model has no prior at all (a plain autoencoder).
        decoder_shape: what the decoder is given of one latent.
        follows_batches: whether training moves it by the images of a batch, beside any gradient.
    """

    version: ClassVar[int] = 1
    spec: LatentSpec
    family: ClassVar[str]
    follows_batches: ClassVar[bool] = False
    base_prior: LatentDensity | None
    decoder_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, features: Tensor) -> Encoding: ...

    def embed(self, z: Tensor) -> Tensor:
        """Latents [B, *spec.shape] as the decoder takes them, [B, *decoder_shape]: codes become their vectors."""
        return z
