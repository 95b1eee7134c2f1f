"""Vector quantisation: every place of a feature map becomes the nearest of K code vectors (van den Oord, Vinyals &
Kavukcuoglu, "Neural Discrete Representation Learning", 2017). The code vectors follow by moving averages; the
theory, and what keeps the codes alive, is in `stage1_vae.codes.codebook`. What the encoder pays for staying near
them is the commitment (ibid., eq. 3, third term).
"""

from torch import Tensor

from stage1_vae.base_priors import UniformCodes
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.codebook import Codebook, check_weight, squared_distance
from stage1_vae.codes.maps import Projection, code_spec, map_shape, to_map
from stage1_vae.posteriors import Codes


class VQ(Bottleneck):
    """Args:
    num_codes: K.
    code_dim: length of a code vector.
    commitment: weight of the squared distance to the code vector, summed over places.
    decay: of the moving averages.
    revive_below: share of the average use below which a code is dead; 0: none ever is.
    rotation: gradients by the rotation trick instead of straight through.

    Raises:
        ValueError: for features that are no map, or a number out of range.
    """

    version = 2
    family = "codes"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        num_codes: int = 512,
        code_dim: int = 64,
        commitment: float = 0.25,
        decay: float = 0.95,
        revive_below: float = 0.1,
        rotation: bool = False,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.commitment = check_weight(commitment)
        channels, self.grid = map_shape(features_shape)
        self.spec = code_spec((self.grid,), (num_codes,), num_classes)
        self.decoder_shape = (code_dim, *self.grid)
        self.base_prior = UniformCodes(self.spec)
        self.project = Projection(channels, code_dim)
        self.codebook = Codebook(num_codes, code_dim, decay, revive_below, rotation)

    def forward(self, features: Tensor) -> Encoding:
        h = self.project(features)  # [B h w, D]
        codes, chosen = self.codebook(h)
        penalty = self.commitment * squared_distance(h, chosen, len(features))  # [B]
        return Encoding(Codes(codes.view(len(features), -1)), penalty, to_map(chosen, self.grid))

    def embed(self, z: Tensor) -> Tensor:
        return to_map(self.codebook.vectors[z.flatten()], self.grid)
