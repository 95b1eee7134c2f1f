"""Modules whose buffers follow the batches that they see in training."""

from abc import ABC
from typing import ClassVar


class BatchStatistics(ABC):
    """A module that moves buffers by the batches of training, beside any gradient, so that they belong to its weights.

    Attributes:
        statistics: names of those buffers, which are averaged where weights are.
    """

    statistics: ClassVar[tuple[str, ...]]

    def settle_statistics(self) -> None:  # noqa: B027 most have nothing that follows from others
        """Make buffers that follow from others fit them again, once those have been averaged."""
