"""The sections of a report, beside the figures of its rows: what the latents are, what classes show, and so on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from expost.evaluation.records import OMITTED, Record


@dataclass(frozen=True)
class Estimate(Record):
    """A mean, and its standard error (over images, one draw each); None for a single draw."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class UnderPrior(Record):
    """Draws of q(z) under one prior, in nats; None with a note where the density is not finite at some draw.

    Attributes:
        cross_entropy_nats: E[-log p(z)].
        marginal_kl_nats: KL(q(z) || p(z)).
        rate_nats: E[log q(z|x) - log p(z)] = mutual information + marginal KL, from the same draws.
        note: why there is no figure, in words.
    """

    cross_entropy_nats: Estimate | None
    marginal_kl_nats: Estimate | None
    rate_nats: Estimate | None
    note: str | None = None


@dataclass(frozen=True)
class Decomposition(Record):
    """The rate of some images taken apart; theory: `expost.evaluation.latents.surgery`.

    Attributes:
        num_draws: images that a z was drawn for, one each.
        num_components: N, images whose posteriors make the aggregate.
        mutual_information_nats: I(n; z), at most `ceiling_nats`.
        ceiling_nats: log N.
        at_ceiling: the estimate has reached the ceiling; then it is a lower bound on the mutual information and nothing
            more.
        priors: name -> what the same draws cost under that prior; None for one without a density. Of test images, the
            aggregate of the training images is one prior more, `training_aggregate`.
    """

    num_draws: int
    num_components: int
    mutual_information_nats: Estimate
    ceiling_nats: float
    at_ceiling: bool
    priors: Mapping[str, UnderPrior | None]


@dataclass(frozen=True)
class Wasserstein(Record):
    """Distances of prior samples to draws of q(z) of test images, dimension by dimension, in units of z.

    Attributes:
        mean, largest: over dimensions.
        floor: mean between two samples of one density.
        per_dim: None where there are too many to list.
    """

    mean: float
    largest: float
    floor: float
    per_dim: tuple[float, ...] | None


@dataclass(frozen=True)
class Dimensions(Record):
    """The dimensions of the latents of training images.

    Attributes:
        num_dims, num_active, num_collapsed: how many, how many whose posterior means vary over images, and how many are
            the prior for every image (None for point masses).
        active, collapsed, mean_variance: a value a dimension; None where there are too many to list.
        wasserstein_1: prior -> distances of its samples; None where some of them are not finite.
    """

    num_dims: int
    num_active: int
    num_collapsed: int | None
    active: tuple[bool, ...] | None = None
    collapsed: tuple[bool, ...] | None = None
    mean_variance: tuple[float, ...] | None = None
    wasserstein_1: Mapping[str, Wasserstein | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TwoSample(Record):
    """Samples of one prior against q(z) of test images.

    Attributes:
        accuracy_percent, standard_error_percent, num_held_out: of the classifier, on images that it never saw.
        known_accuracy_percent, known_standard_error_percent, known_num_images: against the aggregate of known test
            images, new draws of each, which is easier by whatever memory of images is worth; None for point masses and
            draws.
        mmd_squared, mmd_standard_error, mmd_num_samples: the discrepancy.
    """

    accuracy_percent: float
    standard_error_percent: float
    num_held_out: int
    known_accuracy_percent: float | None
    known_standard_error_percent: float | None
    known_num_images: int | None
    mmd_squared: float
    mmd_standard_error: float
    mmd_num_samples: int


@dataclass(frozen=True)
class Codebook(Record):
    """One map of a sequence of codes.

    Attributes:
        grid: its height and width.
        num_codes: K.
        used_share, perplexity: of its codes over training images.
        counts: occurrences of each code, most frequent first.
    """

    grid: tuple[int, int]
    num_codes: int
    used_share: float
    perplexity: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Codes(Record):
    """Discrete latents: their maps, and the share of test images whose very sequence some training image has."""

    books: tuple[Codebook, ...]
    seen_share: float


@dataclass(frozen=True)
class Surgery(Record):
    """What the latents are made of, and how well priors fit them.

    Attributes:
        train, test: the rate of that split under the aggregate of its own images; None for point masses and draws.
        dimensions, two_sample: of latents that are no codes; `two_sample`: prior -> figures, None with a note.
        codes: of codes.
        log_prob_is: prior -> what its density is (exact, lower bound, estimate, none).
        notes: in words, what is missing and why.
    """

    train: Decomposition | None = None
    test: Decomposition | None = None
    dimensions: Dimensions | None = None
    two_sample: Mapping[str, TwoSample | None] = field(default_factory=dict)
    codes: Codes | None = None
    log_prob_is: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share(Estimate):
    """Mean over classes of the share of images that a classifier takes for their class, and of how many images."""

    standard_error: float
    num: int


@dataclass(frozen=True)
class ClassShares(Record):
    """One class, and what share of each kind of image of it is taken for it; None where there is none."""

    label: int
    name: str
    samples: float | None
    reconstructions: float | None
    test_images: float | None


@dataclass(frozen=True)
class Classes(Record):
    """Whether samples of a conditional prior show the class that was asked for.

    Attributes:
        num_a_class: samples of each class.
        chance: what would be right by chance.
        judge: the classifier in words.
        samples, reconstructions, test_images: None where no test image is of these classes.
        by_class: each class of the training images.
    """

    num_a_class: int
    chance: float
    judge: str
    samples: Share
    reconstructions: Share | None
    test_images: Share | None
    by_class: tuple[ClassShares, ...]


@dataclass(frozen=True)
class Clusters(Record):
    """Whether the components of a mixture are classes of test images; theory: `expost.evaluation.latents.clusters`.

    Attributes:
        num_components, num_classes, num_images: K, C, and test images that were sorted.
        classes_known: component k is class k, by labels of training images; else they were matched on these images.
        accuracy: share of images in the component of their class, one to one.
        purity: the same where every component stands for the class that most of its images have.
        nmi: normalised mutual information of component and class, 0 to 1.
        matched: the class of each component, -1 for one that is left over.
        counts: images by component and class, [K][C].
    """

    num_components: int
    num_classes: int
    num_images: int
    classes_known: bool
    accuracy: Estimate
    purity: Estimate
    nmi: float
    matched: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Rung(Record):
    """One of the priors among which one was chosen.

    Attributes:
        rung: what it is called.
        seconds: of its fit.
        words: what became of it.
        val_nll_nats, frechet_distance: held out; None: it was not fitted, or nobody asked.
        behind, error: by how much the best one is better in what was asked for, and the standard error of that.
    """

    rung: str
    seconds: float
    words: str
    val_nll_nats: float | None = None
    frechet_distance: float | None = None
    behind: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class LookedAt(Record):
    """One thing that was remarkable of the latents before the fit: what, how much, what is done about it."""

    what: str
    seen: str
    done: str


@dataclass(frozen=True)
class Fitting(Record):
    """How a prior was fitted, and what can be done where it falls short.

    Attributes:
        by: "steps", "iterations", "counting" or "formula".
        remedy: in words that follow a semicolon.
        num_places: of a latent.
        ladder: the priors among which it was chosen.
        over_gaussian: nats by which held-out latents are likelier than under one Gaussian; None: nobody looked.
        look: what was remarkable of the latents before.
        if_losing: what can be done where that is less than nothing, in words that follow a semicolon.
    """

    by: str
    remedy: str
    num_places: int
    ladder: tuple[Rung, ...] = field(default=(), metadata=OMITTED)
    over_gaussian: Estimate | None = field(default=None, metadata=OMITTED)
    if_losing: str = field(default="", metadata=OMITTED)
    look: tuple[LookedAt, ...] = field(default=(), metadata=OMITTED)


@dataclass(frozen=True)
class AnnealedRow(Record):
    """What annealing says of one prior; None for what does not exist.

    Attributes:
        ais_nats, ais_std_error_nats: mean upper bound on -log p(x) over the test images, and its standard error.
        iwae_nats: of the same images, to compare.
        acceptance, acceptance_range: of the moves; over images and tenths of the path, lowest and highest.
        ess_share: effective sample size of the weights over the number of chains.
        diverged_share: of the chains.
        trusted_images: how many.
        bdmc_gap_nats, bdmc_gap_std_error_nats: mean over simulated images of what upper and lower bound differ by.
        notes: in words.
    """

    ais_nats: float | None = None
    ais_std_error_nats: float | None = None
    iwae_nats: float | None = None
    acceptance: float | None = None
    acceptance_range: tuple[float, float] | None = None
    ess_share: float | None = None
    diverged_share: float | None = None
    trusted_images: int | None = None
    bdmc_gap_nats: float | None = None
    bdmc_gap_std_error_nats: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TightBounds(Record):
    """Bounds of annealed importance sampling.

    Attributes:
        num_images: test images that are bounded.
        bdmc_images: images that are simulated for each prior.
        num_chains, num_steps, leapfrog_steps: work for an image.
        importance_samples: of the bound beside it.
        is_density: the bounds are on a density or mass of images, and no cross-entropies.
        rows: prior -> its bounds.
    """

    num_images: int
    bdmc_images: int
    num_chains: int
    num_steps: int
    leapfrog_steps: int
    importance_samples: int
    is_density: bool
    rows: Mapping[str, AnnealedRow]


@dataclass(frozen=True)
class GapsRow(Record):
    """What of -ELBO is not -log p(x), under one prior; means over test images. None for what does not exist.

    Attributes:
        approximation_gap_nats, amortisation_gap_nats: of the family of q(z|x), and of the encoder.
        elbo_nats, local_elbo_nats: -ELBO of the encoder's q, and of the best of its family that was found.
        ais_nats, hmc_nats: upper bounds on -log p(x), by annealing and from the normal of HMC's draws.
        joint_nats, moved_joint_nats: -log p(x, z) of draws of q, and of where HMC has moved them.
        acceptance: of HMC.
        notes: in words.
    """

    approximation_gap_nats: Estimate | None = None
    amortisation_gap_nats: Estimate | None = None
    elbo_nats: Estimate | None = None
    local_elbo_nats: Estimate | None = None
    ais_nats: Estimate | None = None
    hmc_nats: Estimate | None = None
    joint_nats: Estimate | None = None
    moved_joint_nats: Estimate | None = None
    acceptance: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class InferenceGaps(Record):
    """Attributes:
    num_images: test images.
    num_draws: of each posterior.
    rows: prior -> its gaps.
    """

    num_images: int
    num_draws: int
    rows: Mapping[str, GapsRow]


@dataclass(frozen=True)
class Dataset(Record):
    """What was taken of the user's files.

    Attributes:
        num_images: split -> images.
        shape: C, H, W.
        domain, levels: of the values; `levels` is None for floats.
        smallest_value, largest_value: None where nobody has looked.
        read_as, left_out: guesses, and what was not read, in words.
    """

    name: str
    num_images: Mapping[str, int]
    shape: tuple[int, ...]
    domain: str
    levels: int | None
    smallest_value: float | None
    largest_value: float | None
    num_classes: int
    class_names: tuple[str, ...]
    read_as: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Provenance(Record):
    """Where the figures come from; what an older version did not say is None.

    Attributes:
        date, run: when they were measured, and the folder of the run.
        seeds: stage -> seed.
        commit, hardware, torch, python: with what.
        vae, prior, data, features, evaluation: keys of the artifacts, and the fingerprint of the data.
        group: configured name of the run.
        stage1, stage2, likelihood: in words.
        vae_recipe, prior_recipe: the same for runs that differ in their seeds alone.
    """

    date: str | None = field(default=None, metadata=OMITTED)
    run: str | None = field(default=None, metadata=OMITTED)
    seeds: Mapping[str, int] | None = field(default=None, metadata=OMITTED)
    commit: str | None = field(default=None, metadata=OMITTED)
    hardware: str | None = field(default=None, metadata=OMITTED)
    torch: str | None = field(default=None, metadata=OMITTED)
    python: str | None = field(default=None, metadata=OMITTED)
    vae: str | None = field(default=None, metadata=OMITTED)
    prior: str | None = field(default=None, metadata=OMITTED)
    data: str | None = field(default=None, metadata=OMITTED)
    features: str | None = field(default=None, metadata=OMITTED)
    group: str | None = field(default=None, metadata=OMITTED)
    stage1: str | None = field(default=None, metadata=OMITTED)
    stage2: str | None = field(default=None, metadata=OMITTED)
    likelihood: str | None = field(default=None, metadata=OMITTED)
    vae_recipe: str | None = field(default=None, metadata=OMITTED)
    prior_recipe: str | None = field(default=None, metadata=OMITTED)
    evaluation: str | None = field(default=None, metadata=OMITTED)
