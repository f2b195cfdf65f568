"""What a notebook shows beside its figures: tables of verdicts, pictures with menus."""

from collections.abc import Callable

from studies.figures import png
from studies.scoreboard import MARKS, REFUTED

_COLOURS = {
    "supported": "#d5efe3",
    "refuted": "#f9d9cc",
    "negligible": "#f9e4d9",
    "undecided": "#f5eec8",
    "not tested here": "#ececec",
}
_HEADS = {"what": "row of evidence", "low": "95% from", "high": "to", "in_sd": "in SD",
          "t_low": "t from", "t_high": "t to"}  # fmt: skip


def show_verdicts(verdicts):
    """The verdict table for a reader: claims in words, coloured by verdict."""
    columns = "claim says verdict evidence what effect low high unit seeds note"
    return _styled(verdicts, columns.split())


def show_evidence(evidence):
    """Every row of evidence, folded away until a reader asks for it."""
    from IPython.display import HTML

    columns = "claim what effect low high t_low t_high unit in_sd seeds kind verdict note"
    table, rows = _styled(evidence, columns.split()).to_html(), len(evidence)
    return HTML(f"<details><summary>All {rows} rows of evidence</summary>{table}</details>")


def show_rules(rules):
    """The claims of a figure with their decision rules, in words."""
    return _layout(rules.style)


def _styled(table, columns):
    shown = table[[name for name in columns if name in table]].rename(columns=_HEADS)
    style = shown.style.format(precision=3, na_rep="")
    coloured = style.format("{:.0f}", subset=shown.columns.intersection(["seeds"]), na_rep="").map(
        lambda verdict: f"background-color: {_COLOURS[verdict]}; color: black", subset=["verdict"]
    )
    coloured.format(
        lambda verdict: f"{MARKS.get(verdict, MARKS[REFUTED])} {verdict}", subset=["verdict"]
    )
    return _layout(coloured)


def _layout(style):
    style.cell_ids = False  # but for those with a colour: they are most of a table's length
    look = {"selector": "th, td", "props": "text-align: left; white-space: normal"}
    return style.hide(axis="index").set_table_styles([look])


def explorer(draw: Callable, **choices) -> None:
    """A picture, and a menu for each of ``choices``, the lists of what ``draw(**values)`` takes.

    The picture is an output of its own, so that a saved notebook shows it where no kernel runs; the
    menus change it in place.
    """
    import ipywidgets as widgets
    from IPython.display import Image, display

    menus = {
        name: widgets.Dropdown(options=list(choice), description=name.replace("_", " "))
        for name, choice in choices.items()
    }

    def drawn():
        return Image(png(draw(**{name: menu.value for name, menu in menus.items()})))

    picture = display(drawn(), display_id=True)
    for menu in menus.values():
        menu.observe(lambda _: picture.update(drawn()), "value")
    words = f"menus, where a kernel runs: {', '.join(choices).replace('_', ' ')}"
    bundle = widgets.VBox([*menus.values()])._repr_mimebundle_()
    display({**bundle, "text/plain": words}, raw=True)
