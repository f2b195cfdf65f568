"""What every figure notebook does around its experiment: read its parameters, say where it runs, leave a manifest."""

import json
import platform
import types
from pathlib import Path

from lib.specs.fields import ParameterError
from studies import presets
from studies.figures import save
from studies.presets import Settings

_SHELL = {"In", "Out", "get_ipython", "exit", "quit", "open"}


def parameters(figure: str, namespace: dict) -> Settings:
    """The validated settings of a notebook from its global names.

    Any setting of the figure may be given, also one that the parameters cell does not list; ``None`` means the
    preset's value. papermill only warns of a misspelt name, and Jupyter says nothing: here any stray literal stops
    the notebook. Raises ``ParameterError`` naming each wrong parameter, its value and what is allowed.
    """
    known = {name: namespace[name] for name in Settings.model_fields if name in namespace}
    if (
        "_parameters_checked" not in namespace
    ):  # run again later, the namespace also holds the notebook's own results
        strays = {
            name: value
            for name, value in namespace.items()
            if name not in known
            and not name.startswith("_")
            and name not in _SHELL
            and not callable(value)
            and not isinstance(value, types.ModuleType)
        }
        known |= strays
    settings = presets.settings(
        figure, **{"preset": "quick", **{k: v for k, v in known.items() if v is not None}}
    )
    namespace["_parameters_checked"] = True
    return settings


def describe(settings: Settings) -> None:
    """Print the preset, the data, the network, the device and the versions: what a reader must know of a figure."""
    import torch

    from lib.runs.sweep import choose_device

    device = choose_device(settings.device)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads of the CPU"
    )
    print(
        f"preset {settings.preset}: {settings.dataset}, {settings.network}, {len(settings.seeds)} seeds"
    )
    print(f"on {name}; Python {platform.python_version()}, torch {torch.__version__}")


_COLOURS = {
    "supported": "#d5efe3",
    "refuted": "#f9d9cc",
    "undecided": "#f5eec8",
    "not tested here": "#ececec",
}


def show_verdicts(verdicts):
    """The verdict table for a reader: claims in words, coloured by verdict."""
    return _styled(
        verdicts,
        ["claim", "says", "verdict", "what", "effect", "low", "high", "unit", "seeds", "note"],
    )


def show_evidence(evidence):
    """Every row of evidence, folded away until a reader asks for it."""
    from IPython.display import HTML

    table = _styled(
        evidence,
        ["claim", "what", "effect", "low", "high", "unit", "in_sd", "seeds", "verdict", "note"],
    )
    return HTML(
        f"<details><summary>All {len(evidence)} rows of evidence</summary>{table.to_html()}</details>"
    )


def show_rules(rules):
    """The claims of a figure with their decision rules, in words."""
    return _layout(rules.style)


def _styled(table, columns):
    shown = table[[name for name in columns if name in table]].copy()
    if "seeds" in shown:
        shown["seeds"] = shown["seeds"].map(lambda n: "" if n != n else f"{n:.0f}")
    names = {"what": "row of evidence", "low": "95% from", "high": "to", "in_sd": "in SD"}
    style = shown.rename(columns=names).style.format(precision=3, na_rep="")
    return _layout(
        style.map(
            lambda verdict: f"background-color: {_COLOURS[verdict]}; color: black",
            subset=["verdict"],
        )
    )


def _layout(style):
    left = [{"selector": "th", "props": "text-align: left"}]
    return (
        style.hide(axis="index")
        .set_properties(**{"text-align": "left", "white-space": "normal"})
        .set_table_styles(left)
    )


def explorer(draw, **choices):
    """A picture with controls: ``draw(**values)`` returns a figure, and each of ``choices`` is a control or the list of its options.

    The picture is an image and not an output area of its own: clients that execute a notebook without a browser can wait for ever
    on those (https://github.com/jupyter/nbclient/issues/312).
    """
    import io

    import ipywidgets as widgets

    def control(name, choice):
        return (
            choice
            if isinstance(choice, widgets.Widget)
            else widgets.Dropdown(options=list(choice), description=name.replace("_", " "))
        )

    controls = {name: control(name, choice) for name, choice in choices.items()}
    picture = widgets.Image(format="png")

    def redraw(_=None):
        content = io.BytesIO()
        draw(**{name: c.value for name, c in controls.items()}).savefig(
            content, format="png", dpi=100
        )
        picture.value = content.getvalue()

    for c in controls.values():
        c.observe(redraw, "value")
    redraw()
    return widgets.VBox([*controls.values(), picture])


def account(verdicts) -> None:
    """Print how many claims came out how, and how many would by chance."""
    counts = verdicts["verdict"].value_counts()
    tested = int(counts.drop("not tested here", errors="ignore").sum())
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    print(
        f"At 5% each, {0.05 * tested:.1f} of the {tested} verdicts tested would be wrong by chance."
    )


def manifest(
    settings: Settings,
    table,
    verdicts,
    seconds: float,
    figures: dict | None = None,
    tables: dict | None = None,
) -> dict:
    """The last word of a notebook: parameters, keys of the runs, versions, verdicts; its presence means that all ran.

    With the parameter ``save_to``, the manifest, the final table, the measures by epoch, the verdicts and the
    ``figures`` and further ``tables`` (file name -> figure, or DataFrame) are written into that folder. Returns the manifest.
    """
    import torch

    from lib.runs import results, sweep

    content = {
        "parameters": settings.model_dump(
            mode="json", exclude={"save_to", "runs_folder", "folder"}
        ),
        "runs": len(table["key"].unique()),
        "diverged": int(table.groupby("key")["diverged"].first().sum()),
        "keys": sorted(table["key"].unique()),
        "verdicts": dict(zip(verdicts["claim"], verdicts["verdict"], strict=True)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(sweep.choose_device(settings.device)),
        "notebook_seconds": round(seconds, 1),
    }
    if settings.save_to:
        folder = Path(settings.save_to)
        folder.mkdir(parents=True, exist_ok=True)
        last = (
            results.final(table)
            if "train_loss" in table
            else table.sort_values("epoch", kind="stable").groupby("key", sort=False).tail(1)
        )
        last.to_csv(folder / "final.csv", index=False, float_format="%.6g")
        table.drop(columns=["mask", "pruned", "prunable"]).to_csv(
            folder / "by_epoch.csv.gz", index=False, float_format="%.6g"
        )
        verdicts.to_csv(folder / "verdicts.csv", index=False, float_format="%.6g")
        for name, further in (tables or {}).items():
            further.to_csv(folder / name, index=False, float_format="%.6g")
        for name, figure in (figures or {}).items():
            save(figure, folder / name)
        (folder / "manifest.json").write_text(
            json.dumps(content, indent=1) + "\n", encoding="utf-8"
        )
    print(
        json.dumps(
            {name: value for name, value in content.items() if name not in ("keys", "verdicts")}
        )
    )
    print(
        f"{len(content['keys'])} runs, keys {content['keys'][0][:8]} to {content['keys'][-1][:8]}; every cell ran"
    )
    return content


__all__ = [
    "ParameterError",
    "account",
    "describe",
    "explorer",
    "manifest",
    "parameters",
    "show_evidence",
    "show_rules",
    "show_verdicts",
]
