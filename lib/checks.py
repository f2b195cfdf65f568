"""The one way in which a value is refused."""


def refuse(so: object, words: str) -> None:
    """Raise ``ValueError`` with these ``words`` where it is so."""
    if so:
        raise ValueError(words)
