"""What evaluation refuses, in one line that a user can act on."""


class EvaluationError(ValueError):
    """A figure that cannot be computed honestly; the message says why and what to change."""
