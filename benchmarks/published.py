"""Published figures and the recipe that aims at each: what is claimed, by whom, and why ours may fall short of it.

No figure of ours is in this file: those come from stored runs alone.
"""

from dataclasses import dataclass

BURDA = "Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, Table 1"
NOROUZI = "Norouzi, Fleet & Norouzi, Exemplar VAE, NeurIPS 2020, as quoted"
GHOSH = "Ghosh et al., From Variational to Deterministic Autoencoders, ICLR 2020, Table 1"
XU = "Xu et al., On the Necessity and Effectiveness of Learning the Prior of VAE, 2019 (1905.13452), as quoted later"


@dataclass(frozen=True)
class Claim:
    """One published figure.

    Attributes:
        what: the model, in words.
        figure: the key of ours that stands beside it.
        row: of our report; "standard_normal" or a learned prior.
        published: as printed; lower is better in all of them.
        words: overrides that make `row`, after the experiment's own.
        same_scale: whether the two numbers measure the same thing.
        is_joint: whether it is of what stage=joint has made.
        importance_samples: an image, that ours must be bounded with to stand beside it; None: it is no such bound.
    """

    what: str
    figure: str
    row: str
    published: float
    words: str
    same_scale: bool = True
    importance_samples: int | None = None
    is_joint: bool = False

    @property
    def label(self) -> str:
        """What the comparison calls our row."""
        settings = [word.partition(".")[2] for word in self.words.split() if word.startswith("prior.")]
        return " ".join([self.row, *settings])


@dataclass(frozen=True)
class Recipe:
    """One experiment of conf/experiment and the figures that it aims at.

    Attributes:
        experiment: its file and the name of its runs.
        title, source: of the published figures.
        claims: those figures.
        why: where the recipe departs from what was published, and what that is expected to cost.
    """

    experiment: str
    title: str
    source: str
    claims: tuple[Claim, ...]
    why: str


RECIPES = (
    Recipe(
        "mnist_dynamic_vae",
        "Dynamic MNIST, VAE, one latent layer",
        BURDA,
        (
            Claim(
                "VAE, -log p(x) by 5,000 samples, nats",
                "iwae_nats",
                "standard_normal",
                86.76,
                "prior=standard_normal",
                importance_samples=5000,
            ),
        ),
        "Nets, latent dimension and estimate are the published ones. The schedule is not: 800 epochs of batches of 128 "
        "under a cosine instead of 3,280 epochs of batches of 20, so about a thirtieth of the optimiser steps, and "
        "55,000 training images instead of 60,000.",
    ),
    Recipe(
        "mnist_dynamic_iwae50",
        "Dynamic MNIST, IWAE with 50 samples, one latent layer",
        BURDA,
        (
            Claim(
                "IWAE-50, -log p(x) by 5,000 samples, nats",
                "iwae_nats",
                "standard_normal",
                84.78,
                "prior=standard_normal",
                importance_samples=5000,
            ),
        ),
        "A shortened schedule, and labelled as such: 30 epochs of batches of 128, less than a five-hundredth of the "
        "published optimiser steps. The objective, nets and estimate are the published ones; an under-trained IWAE is "
        "what this row shows.",
    ),
    Recipe(
        "mnist_dynamic_mlp",
        "Dynamic MNIST, one latent layer, gated MLP 2x300, 40 dimensions",
        NOROUZI,
        (
            Claim(
                "N(0, I), -log p(x) by 5,000 samples, nats",
                "iwae_nats",
                "standard_normal",
                84.45,
                "prior=mixture prior.num_components=300",
                importance_samples=5000,
            ),
            Claim(
                "a prior beside N(0, I) (theirs: VampPrior, learned with the VAE; ours: a mixture, afterwards)",
                "iwae_nats",
                "mixture",
                82.43,
                "prior=mixture prior.num_components=300",
                importance_samples=5000,
            ),
            Claim(
                "the best prior (theirs: exemplars; ours: autoregressive, then learned together)",
                "iwae_nats",
                "autoregressive",
                82.09,
                "prior=autoregressive stage=joint",
                importance_samples=5000,
                is_joint=True,
            ),
        ),
        "Nets, latent dimension and estimate are the published ones, but for 55,000 training images instead of 50,000. "
        "Schedule, warm-up of the rate and averaged weights are ours, so N(0, I) alone is no comparison of priors with "
        "theirs; the differences between our rows are.",
    ),
    Recipe(
        "mnist_rae_vae",
        "MNIST, VAE and a mixture of 10",
        GHOSH,
        (
            Claim(
                "N(0, I), FID",
                "frechet_distance",
                "standard_normal",
                19.21,
                "prior=mixture prior.num_components=10",
                False,
            ),
            Claim(
                "mixture of 10, FID",
                "frechet_distance",
                "mixture",
                17.66,
                "prior=mixture prior.num_components=10",
                False,
            ),
        ),
        "Convolutions a quarter as wide and one stage shorter than the published ones, 40 epochs. Our distance is in "
        "features of a small classifier of this set, theirs in Inception features: only the order of the priors can be "
        "compared, not the numbers.",
    ),
    Recipe(
        "mnist_rae_ae",
        "MNIST, regularised autoencoder (RAE-L2) and a mixture of 10",
        GHOSH,
        (
            Claim("one Gaussian, FID", "frechet_distance", "gaussian", 22.22, "prior=gaussian", False),
            Claim(
                "mixture of 10, FID",
                "frechet_distance",
                "mixture",
                8.69,
                "prior=mixture prior.num_components=10",
                False,
            ),
        ),
        "Nets, schedule and features as in mnist_rae_vae; the weights of both penalties are constants of ours.",
    ),
    Recipe(
        "mnist_resnet_flow",
        "Dynamic MNIST, ResNet VAE and a RealNVP prior learned with it",
        XU,
        (
            Claim(
                "RealNVP prior, -log p(x), nats",
                "iwae_nats",
                "learned",
                78.49,
                "prior=learned",
                importance_samples=5000,
            ),
        ),
        "For a GPU. Net, latent dimension and the number of the flow's layers are ours.",
    ),
)

WITHOUT_RECIPE = (
    ("MNIST FID, VAE: N(0, I) to mixture of 10: 40.70 to 13.13", "Chadebec & Allassonnière, NeurIPS 2022, Table 1"),
    ("MNIST FID, first stage to two-stage VAE: 54.5 to 12.6", "Dai & Wipf, ICLR 2019"),
    ("fixed binarised MNIST, VAE / IWAE-50 / VampPrior: 89.78 / 86.82 / 85.79 nats", "pythae's reproducibility table"),
    ("CIFAR-10, VQ-VAE / VAE: 4.67 / 4.51 bits per dimension", "van den Oord et al., 2017"),
    ("CIFAR-10 FID, RAE-L2 and mixture / two-stage VAE: 74.16 / 72.9", "Ghosh et al., 2020; Dai & Wipf, 2019"),
)
"""Published figures that no recipe of this project aims at yet."""
