"""The package loads lazily, and its modules import only what lies below them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lib

FOLDER = Path(lib.__file__).parent
# From the notebook's side to the machine's: a module may import only from those after it.
ORDER = [
    *(
        "plots",
        "claims",
        "notebook",
        "measurements",
        "sweep",
        "tables",
        "store",
        "training",
        "workers",
        "steps",
        "feeds",
        "updates",
        "starts",
        "cohort",
        "schedules",
        "runs",
        "specs",
        "presets",
    ),
    *(
        "mask_update",
        "criteria",
        "signals",
        "peaks",
        "masks",
        "metrics",
        "init",
        "flops",
        "live",
        "networks",
        "downloads",
        "folders",
        "data",
        "files",
        "draws",
    ),
]
MODULES = sorted(p for p in FOLDER.rglob("*.py") if p != FOLDER / "__init__.py")


def home_of(path):
    """The name in ORDER of the module at ``path``; all modules of a package count as one."""
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def imports_of(path):
    """(module of lib, whether at the top level) for each import in ``path``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "lib"
                else [node.module]
            )
        for name in names:
            if name.startswith("lib."):
                yield name.split(".")[1], id(node) in top


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_imports_point_downward(path):
    """Each module imports only modules below it; the exceptions are data's late imports of what fetches and what streams."""
    home = home_of(path)
    assert home in ORDER, f"{home} has no place in the order of modules"
    for target, at_top in imports_of(path):
        if (home, target, at_top) in (
            ("data", "downloads", False),
            ("data", "folders", False),
        ) or home == target:
            continue
        assert ORDER.index(target) > ORDER.index(home), (
            f"{home} imports {target}, which lies above it"
        )


def loaded_by(statement):
    """Names of the modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_lib_loads_nothing_else():
    """``import lib`` brings in no heavy library, not even torch, and none of its own modules."""
    loaded = loaded_by("import lib")
    heavy = {
        "torch",
        "numpy",
        "pandas",
        "matplotlib",
        "sklearn",
        "scipy",
        "torchvision",
        "pydantic",
        "tqdm",
    }
    assert "lib" in loaded
    assert not loaded & heavy
    assert not [name for name in loaded if name.startswith("lib.")]


def test_the_run_side_loads_no_plotting():
    """Specifying and carrying out runs needs neither matplotlib nor torchvision, and pandas and scikit-learn only when used."""
    loaded = loaded_by("import lib\nlib.Run, lib.carry_out")
    assert {"torch", "lib.sweep"} <= loaded
    assert not loaded & {"matplotlib", "torchvision", "sklearn", "pandas"}


def test_names_of_the_package():
    """Every name that the package lists resolves where it exists, and an unknown one is an AttributeError."""
    from lib.runs.sweep import carry_out
    from lib.specs.run import Run

    assert (lib.Run, lib.carry_out) == (Run, carry_out)
    assert lib.data.__name__ == "lib.data"
    assert {"Run", "Setup", "finetune", "scratch", "carry_out", "masks"} <= set(dir(lib))
    with pytest.raises(AttributeError, match="no attribute 'pots'"):
        lib.pots  # noqa: B018
