"""How stage 1 is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The `trainer:` section as far as it can change a result.

    Attributes:
        max_epochs, max_steps: when training ends, the first of the two; None: no limit to optimiser steps.
        lr, weight_decay: of Adam (decoupled weight decay where it is not zero).
        schedule: `constant` or `cosine`, down to zero at the last step.
        warmup_steps: optimiser steps over which the learning rate rises.
        gradient_clip: largest norm of the gradient; None: any.
        ema_decay: of averaged weights, which are kept instead of the last (`averages.py`); None: no average.
        patience: epochs without a better validation loss after which training ends; None: never.
        val_every: epochs from one validation to the next.
        precision: "32", or "bf16" for nets in bfloat16 where autocast allows it. The module does this itself: inside
            the compiled step it costs nothing, and Lightning's own precision plugin adds a tenth to a small step.
        compile: compile the whole step; without a C++ compiler the step runs as it is.
    """

    max_epochs: int
    max_steps: int | None
    lr: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    gradient_clip: float | None
    ema_decay: float | None
    patience: int | None
    val_every: int
    precision: str
    compile: bool
