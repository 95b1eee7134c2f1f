"""What a module inside the model has to say once an epoch, beside the loss."""

from abc import ABC, abstractmethod


class EpochFigures(ABC):
    """A module that counts through an epoch."""

    @abstractmethod
    def read(self) -> dict[str, float]:
        """The figures since they were read last, by name; counting starts anew. Empty: nothing was counted."""
