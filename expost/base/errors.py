"""What a user meets when the mistake is theirs: one line with the remedy, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable

from stage1_vae.errors import ExpostError


class UserError(ExpostError):
    """One line: what is wrong and what to do about it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that help with a wrong `name`: the nearest of the `known` ones if there is one, and then all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}choices: {', '.join(choices) or 'none'}"
