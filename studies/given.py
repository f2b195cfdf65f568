"""Parameters of notebooks without presets: each is checked by itself, before torch is imported."""

from lib.specs.fields import ParameterError, Spec
from studies import presets


class WrongParameterError(ParameterError):
    """Ends a notebook with a line: IPython prints no traceback."""

    def _render_traceback_(self):
        return [f"ParameterError: {self}"]


def checked(**given) -> Spec:
    """The parameters of a notebook without presets, each checked by itself; they are printed.

    Raises ``ParameterError``, naming each wrong one, its value and what is allowed.

    >>> checked(seeds=2, sparsity="0.9").sparsity
    sparsity 0.9, seeds (0, 1)
    0.9
    """
    try:
        chosen = presets.checked(**given)
    except ParameterError as error:
        raise WrongParameterError(str(error)) from None
    print(", ".join(f"{name} {value}" for name, value in chosen if name in given))
    return chosen
