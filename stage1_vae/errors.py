"""The mistakes of users, told apart from those of the program."""


class ExpostError(Exception):
    """The mistake is the user's: its one line says what is wrong and what to do about it."""
