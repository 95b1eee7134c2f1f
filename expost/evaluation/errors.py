"""What evaluation refuses, in one line that a user can act on."""

from stage1_vae.errors import ExpostError


class EvaluationError(ExpostError, ValueError):
    """A figure that cannot be computed honestly; the message says why and what to change."""
