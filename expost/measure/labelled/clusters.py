"""What the components of a mixture have to do with the classes of test images or latents.

Each is sorted into the component that is most responsible for the mean of its q(z|x): without noise, so that two
reports of one model agree.
"""

from dataclasses import replace

import torch
from torch import Tensor

from expost.evaluation.latents.clusters import count, describe_clusters
from expost.evaluation.report import Row
from expost.evaluation.sections import Clusters
from expost.job import Job
from expost.measure.subject import Subject
from stage1_vae.latents import LatentDataset
from stage2_prior.prior import Prior, innermost
from stage2_prior.priors.learned import Learned

ROWS_AT_ONCE = 8192
NOWHERE = -1
"""In place of a component, of a latent that all of them give the density 0: it is off what never varies, or off what is
computed from other numbers."""
MOST_LISTED = 32
"""Components whose images are counted class by class in the report."""


def are_classes(job: Job, prior: Prior) -> bool:
    """Whether component k of `prior` is class k: it was learned with labels, and not fitted afterwards."""
    is_joint = job.config.stage == "joint" or job.config.joint.use
    return job.config.data.get("labelled") is not None and isinstance(prior, Learned) and not is_joint


def measure_clusters(subject: Subject, classes_known: bool = False) -> Clusters | None:
    """Of all test latents that are in some component; None where none is, the prior is no mixture, or nothing has
    labels.

    Args:
        subject: both stages.
        classes_known: the VAE was trained with labels, by which component k is class k.
    """
    labels, num_classes = subject.test.labels, subject.parts.data.num_classes
    if labels is None or not num_classes or not subject.prior.num_clusters:
        return None
    component = sort_into_components(subject.prior, subject.test, subject.device)
    is_sorted = component != NOWHERE
    if not is_sorted.any():
        return None
    counts = count(component[is_sorted], labels[is_sorted], num_used(subject.prior), num_classes)
    found = describe_clusters(counts, classes_known)
    return found if found.num_components <= MOST_LISTED else replace(found, counts=())


def num_used(prior: Prior) -> int:
    """Components of a mixture that have any weight; one that chose how many has room for more behind them."""
    log_weights = getattr(innermost(prior), "log_weights", None)
    if not isinstance(log_weights, Tensor) or len(log_weights) != prior.num_clusters:
        return prior.num_clusters
    return int(log_weights.isfinite().sum())


@torch.no_grad()
def sort_into_components(prior: Prior, latents: LatentDataset, device: torch.device) -> Tensor:
    """The most responsible component of each latent's mean, int64 [N], on the CPU; `NOWHERE` where all have the density
    0."""
    blocks = torch.arange(len(latents)).split(ROWS_AT_ONCE)
    joints = (prior.log_joint(latents.posterior(rows).mean.to(device)) for rows in blocks)
    found = [torch.where(joint.isneginf().all(1), NOWHERE, joint.argmax(1)).cpu() for joint in joints]
    return torch.cat(found)


def add_clusters(rows: dict[str, Row], name: str, clusters: Clusters | None) -> None:
    """Copy what the report says of clusters into the row of the prior `name`, with its standard errors."""
    if clusters is None or name not in rows:
        return
    row = rows[name].with_estimate("cluster_accuracy", clusters.accuracy)
    row = row.with_estimate("cluster_purity", clusters.purity)
    rows[name] = row.with_figure("cluster_nmi", clusters.nmi)
