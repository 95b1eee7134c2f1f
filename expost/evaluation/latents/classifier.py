"""A small classifier of latents: whether samples of a conditional prior show the class that was asked for.

Real latents are standardised first (`expost.evaluation.latents.features`) and seen by a net of one hidden layer. Codes
are numbers without an order: each code at each place is an input of its own, and of very many of them several share one
(Weinberger, Dasgupta, Langford, Smola & Attenberg, "Feature Hashing for Large Scale Multitask Learning", 2009); a
logistic regression sees those.

Both say how often they are right on labelled latents that they never saw, which is as much as can be asked of samples.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from expost.evaluation.errors import EvaluationError

MOST_LATENTS = 20_000
"""That it learns from."""
HELD_OUT_SHARE = 0.2
MIN_LATENTS = 50
HIDDEN, MAX_EPOCHS, PENALTY = 128, 40, 1e-2
MOST_INPUTS = 2**15
"""Of codes; a code at a place is one, while there are no more."""
MAX_ITERATIONS = 100


@dataclass(frozen=True)
class LatentClassifier:
    """Attributes:
    model: of scikit-learn.
    num_codes: of codes, the largest size of a codebook; None: it sees vectors.
    held_out_accuracy: share of latents that it never saw and takes for what they are.
    """

    model: Any
    num_codes: int | None
    held_out_accuracy: float

    @classmethod
    def train(cls, latents: Tensor, labels: Tensor, num_codes: int | None = None) -> "LatentClassifier":
        """From latents [n, D], feature vectors or codes (with `num_codes`), and their `labels` [n].

        Raises:
            EvaluationError: they are too few, of one class, or not finite.
        """
        order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(0))[:MOST_LATENTS]
        held_out, learned = order.tensor_split([int(HELD_OUT_SHARE * len(order))])
        y = labels.cpu().numpy()
        if len(order) < MIN_LATENTS or len(np.unique(y[learned.numpy()])) < 2:
            raise EvaluationError(
                f"a classifier of latents needs at least {MIN_LATENTS} of them, of two classes or more"
            )
        if latents.is_floating_point() and not torch.isfinite(latents).all():
            raise EvaluationError("the training latents hold NaN or infinity, so nothing can learn their classes")
        inputs = inputs_of(latents[order], num_codes)
        first = len(held_out)
        model = new_model(num_codes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as good as it got: the held-out share says how good
            model.fit(inputs[first:], y[learned.numpy()])
        right = model.predict(inputs[:first]) == y[held_out.numpy()]
        return cls(model, num_codes, float(right.mean()))

    def classify(self, latents: Tensor) -> Tensor:
        """The class that each of `latents` [n, D] is taken for, int64 [n] on the CPU."""
        blocks = [self.model.predict(inputs_of(some, self.num_codes)) for some in latents.split(MOST_LATENTS)]
        return torch.from_numpy(np.concatenate(blocks).astype(np.int64))

    @property
    def description(self) -> str:
        return f"a small classifier of latents, {self.held_out_accuracy:.1%} right on held-out ones"


def new_model(num_codes: int | None) -> Any:
    if num_codes is not None:
        return LogisticRegression(max_iter=MAX_ITERATIONS, tol=1e-3)
    return MLPClassifier((HIDDEN,), alpha=PENALTY, max_iter=MAX_EPOCHS, random_state=0)


def inputs_of(latents: Tensor, num_codes: int | None) -> Any:
    """What the model sees of latents [n, D]: vectors as they are, codes as a sparse matrix with a one a place."""
    if num_codes is None:
        return latents.flatten(1).cpu().double().numpy()
    codes = latents.flatten(1).cpu().numpy().astype(np.int64)
    num, places = codes.shape
    columns = codes + num_codes * np.arange(places)
    size = num_codes * places
    if size > MOST_INPUTS:
        columns, size = (columns * 2_654_435_761 % 2**32) % MOST_INPUTS, MOST_INPUTS  # Knuth's multiplicative hash
    starts = np.arange(num + 1) * places
    return csr_matrix((np.ones(num * places), columns.ravel(), starts), shape=(num, size))
