"""The house: how large its rooms are, which way they import, and what importing them loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lib
import studies

HOME = Path(lib.__file__).parent.parent
# Statements without docstrings, so that no formatting changes the count; and lines, so that no long
# literal hides in a statement. The design's borders are 3,300 for lib, with 250 for one GPU and
# many machines, 300 for the arms of the gap study and 100 for the door; and 1,700 for studies, with
# 150 for the verdicts, 350 for the gap and 150 for the door. lib is 150 above: the arms are 328,
# steps that a GPU records and what cuDNN asks of them 128; what stands here may only fall.
LIMITS = {"lib": (4100, 8760), "studies": (2279, 6064)}
# From the notebook's side to the machine's: a module imports from its own room and those after it.
ROOMS = [
    ["studies"],
    ["lib.runs"],
    ["lib.training"],
    ["lib.specs"],
    ["lib.masks"],
    ["lib.metrics"],
    ["lib.sparse"],
    ["lib.data", "lib.models"],
    ["lib.registry", "lib.rng", "lib.files", "lib.checks"],
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MODULES = sorted(path for root in LIMITS for path in (HOME / root).rglob("*.py"))


def statements(path):
    """How many statements a file has, docstrings (of fields too) left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and type(n.value) is ast.Constant]
    return sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) - len(words)


@pytest.mark.parametrize("root", LIMITS)
def test_the_house_is_thin(root):
    paths = [path for path in MODULES if path.is_relative_to(HOME / root)]
    counted = sum(map(statements, paths))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    most, longest = LIMITS[root]
    assert counted <= most, f"{root} has {counted} statements"
    assert lines < longest, f"{root} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(HOME)))
def test_files_are_short(path):
    """At most 300 lines of at most 100 columns."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 100]


def name_of(path):
    return ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__")


def room_of(module):
    parts = module.split(".")
    return parts[0] if parts[0] == "studies" else ".".join(parts[:2])


def imports_of(path):
    """The modules of the project that a file imports, anywhere in it; a registry's home is none."""
    known = {name_of(each) for each in MODULES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in LIMITS:
                yield name if name in known else name.rpartition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(HOME)))
def test_imports_point_downward(path):
    """Into its own room and those below, never to a room beside it."""
    room = room_of(name_of(path))
    if room == "lib":
        assert not list(imports_of(path)), "the package itself imports nothing"
        return
    assert room in FLOOR, f"{room} has no place in the house"
    for target in map(room_of, imports_of(path)):
        assert target in FLOOR, f"{name_of(path)} imports {target}"
        assert target == room or FLOOR[target] > FLOOR[room], f"{room} imports {target}"


def test_there_is_no_circle():
    """Not within a room either: in some order every module comes after all that it imports."""
    left = {name_of(path): set(imports_of(path)) - {name_of(path)} for path in MODULES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle: {', '.join(sorted(left))}"


def test_lib_knows_nothing_of_papers():
    """No module of lib names the studies' package or what stands in it."""
    for path in MODULES:
        if path.is_relative_to(HOME / "lib"):
            assert not [name for name in imports_of(path) if name.startswith("studies")]
    assert Path(studies.__file__).parent == HOME / "studies"


def loaded_by(statement):
    """Names of the modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOME
    )
    return set(done.stdout.split())


def test_import_lib_loads_nothing_else():
    """``import lib`` brings in no heavy library, not even torch, and none of its own modules."""
    loaded = loaded_by("import lib")
    heavy = "torch numpy pandas matplotlib sklearn scipy torchvision pydantic tqdm"
    assert "lib" in loaded
    assert not loaded & set(heavy.split())
    assert not [name for name in loaded if name.startswith("lib.")]


def test_the_run_side_loads_no_plotting():
    """Specifying and carrying out runs needs pandas and scikit-learn only when they are used."""
    loaded = loaded_by("import lib\nlib.Run, lib.carry_out")
    assert {"torch", "lib.runs.sweep"} <= loaded
    assert not loaded & {"matplotlib", "torchvision", "sklearn", "pandas"}


def test_names_of_the_package():
    """Every name that the package lists resolves, and an unknown one is an AttributeError."""
    from lib.runs.sweep import carry_out
    from lib.specs.run import Run

    assert (lib.Run, lib.carry_out) == (Run, carry_out)
    assert all(getattr(lib, name) is not None for name in dir(lib))
    assert lib.data.__name__ == "lib.data"
    with pytest.raises(AttributeError, match="no attribute 'pots'"):
        lib.pots  # noqa: B018
