"""Methods and initialisations: the gradient-flow study's Tables 1 and 5.

The table has a column ``row``, the method ("baseline", "lottery", "small dense", "pruned",
"scratch", "set", "rigl", "rigl-inverted"), and ``form``, how fresh weights take account of the
mask: masked (the study's Original), layer (Liu et al.), neuron (its own).
"""

from studies.quantities import Numbers, needed, pick
from studies.rules import MATCH, Rule, equal, if_any, more, needs

FORMS = {"masked": "original", "layer": "liu", "neuron": "ours"}


def accuracy(row: str, form: str = "") -> Numbers:
    """Final test accuracy in points by seed; raises ``NotHere`` if the table lacks the row."""
    missing = f"the table has no row {row} {FORMS.get(form, '')}".rstrip()
    return needed(100 * pick("test_accuracy", row=row, form=form), missing)


def named(row: str, form: str = "") -> str:
    """A cell in words: "scratch (original)"."""
    return f"{row} ({FORMS[form]})" if form else row


def better(first: tuple, second: tuple) -> Rule:
    """The cell ``first`` is above the cell ``second``, paired over seeds."""
    what = f"{named(*first)} - {named(*second)}"
    return more(what, accuracy(*first) - accuracy(*second), "points", margin=MATCH)


def alike(method: str) -> Rule:
    """Both ways to take account of the mask give the same accuracy."""
    gain = accuracy(method, "neuron") - accuracy(method, "layer")
    return equal(f"{method}: ours - liu", gain, "points", margin=MATCH)


# for scratch on LeNet-5 the study itself prints a difference of a point
NOT_LENET = needs(lambda table: "lenet-5" not in set(table["network"]), "not of LeNet-5")

RULES = {
    "flow-inverted-accuracy": better(("rigl", "neuron"), ("rigl-inverted", "neuron")),
    "flow-t1-liu-matches-ours": [
        if_any(NOT_LENET, alike("scratch")),
        alike("set"),
        alike("rigl"),
    ],
}
