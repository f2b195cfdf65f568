"""What a person gives in a preset's place: known names, what goes with it, what there is."""

import difflib
from collections.abc import Collection, Iterator

from lib import registry
from lib.specs.fields import ParameterError


def known(given: dict, names: Collection[str]) -> None:
    """Raise ``ParameterError`` for what is ``given`` under another name than these."""
    for name in given.keys() - set(names):
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ParameterError(
            f"parameter {name!r} (= {given[name]!r}) does not exist here{hint}; there are "
            f"{', '.join(names)}"
        )


def adapted(values: dict, given: dict) -> dict:
    """A preset's values that go with what is given in others' places.

    With another number of epochs, the pruning epochs stay the same shares of training, moments
    within an epoch what they are; another network has its own widths, and takes its own options.
    """
    values = dict(values)
    from lib.models import networks

    epochs, network = str(given.get("epochs", "")).strip(), given.get("network", values["network"])
    if "prune_epochs" in values and epochs.isdecimal():
        grid = {
            min(t, int(epochs)) if t % 1 else round(t * int(epochs) / values["epochs"])
            for t in values["prune_epochs"]
        }
        values["prune_epochs"] = sorted(grid)
    if network != values["network"] and network in registry.network:
        for option in {"widths", "width", "activation", "pooling"} & values.keys():
            if option == "widths" or option not in networks.options(network):
                del values[option]
    return values


def beyond(s, given: dict) -> Iterator[str]:
    """What a person asks for beyond what there is; of a preset's, what there is is taken."""
    ends = {"milestones": max(s.epochs, s.sparse_epochs or 0)}
    ends["sparse_milestones"] = s.epochs if s.sparse_epochs is None else s.sparse_epochs
    for name, end in ends.items():
        if name in given and max(getattr(s, name), default=0) > end:
            yield f"{name} is {given[name]!r}: none may lie beyond the last epoch, {end}"
    for name in (
        "train_examples", "examples", "exact_examples", "watch_examples", "score_examples",
    ):  # fmt: skip
        if name in given and getattr(s, name) > s.examples_there():
            yield f"{name} is {given[name]!r}: there are {s.examples_there()} training examples"
