"""How many levels the pixels of unsigned bytes have.

A byte holds 256, but images of 17 grey levels, or masks of 0 and 1, are kept in bytes too; read as 256 levels they are
black to the eye and to every figure. What is seen decides: a set whose largest value is below `FEW` has few levels; one
that stays below `HALF` is taken as it is, and that is said, for dark photographs look alike.
"""

from stage1_vae.data.images import DataError

BYTE = 256
HALF = 128
FEW = 32
"""Bytes that all lie below this show an eighth of the range: nothing that a camera or a scanner writes."""


def levels_of(what: str, high: int, asked: int | None, complete: bool = True) -> tuple[int, tuple[str, ...]]:
    """How many levels bytes have whose largest value is `high`, and what was guessed about that.

    Args:
        what: the file or folder, to name it.
        high: the largest value that was seen.
        asked: `data.levels`; None: to be found out.
        complete: whether every pixel was seen, and not a part of the images.

    Raises:
        DataError: `asked` is no number of levels of these bytes; all are 0; there are few, and not all were seen.
    """
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or not 2 <= asked <= BYTE:
            raise DataError(f"data.levels={asked}: give a whole number from 2 to {BYTE}, or null")
        if high >= asked:
            raise DataError(
                f"{what} holds {high}, and data.levels={asked} ends at {asked - 1}: give at least {high + 1}"
            )
        return asked, ()
    if high == 0 and complete:
        raise DataError(f"{what} holds nothing but 0: every image is black; see how the images were written")
    if high >= HALF:
        return BYTE, ()
    if high >= FEW:
        return BYTE, (f"the largest of 256 levels is {high} (data.levels={high + 1} if that is white)",)
    if not complete:
        raise DataError(
            f"{what} holds values up to {high} only, as far as was looked: set data.levels={high + 1} if {high} is "
            f"white, or data.levels={BYTE} if the images are that dark"
        )
    num = max(high + 1, 2)
    return num, (f"values 0 to {high} are {num} levels (data.levels={BYTE} if the images are that dark)",)
