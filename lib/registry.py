"""The one mechanism for everything that has a name: networks, data sets, criteria, and so on.

A registry is a mapping from names to functions (or classes) and a decorator at once. What stands
inside ``lib`` is known by its name; what a user registers is known by its name and a hash of its
source (``version``), so that an edited function never finds the runs of the old one.

>>> @criterion
... def smallest_first(weights, generator, task):
...     return {name: weight.abs() for name, weight in weights.items()}
>>> "smallest_first" in criterion
True
>>> criterion.forget("smallest_first")
"""

import dis
import functools
import hashlib
import importlib
import inspect
import linecache
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PLAIN = ("NoneType", "dtype", "device")  # types of values that their words tell
STATE_ONE = "give a version, such as version='1', and change it with the function"


class Registry(Mapping[str, Any]):
    """What is registered as a ``kind``; ``home`` is the module that registers what stands inside.

    That module is imported when a name is first looked up, so that a registry costs nothing before.
    Entries that are known by what they make, as data sets are by their fingerprint, have no
    version: ``hashed=False``.
    """

    def __init__(self, kind: str, home: str, hashed: bool = True):
        self.kind, self.home, self.hashed = kind, home, hashed
        self._entries: dict[str, Any] = {}
        self._stated: dict[str, str | None] = {}  # of a user's entries: the version that they state

    def __call__(self, entry=None, *, name: str | None = None, version: str | None = None):
        """Register ``entry`` under its own name, or under ``name``; used as ``@criterion``.

        ``version`` stands in for the source where it cannot be read, or where it does not tell all.
        Raises ``ValueError`` for a name that the project itself uses, or a source out of reach.
        """
        if entry is None:
            return lambda later: self(later, name=name, version=version)
        name = name or entry.__name__
        if entry.__module__.split(".")[0] != "lib":
            if name in self and name not in self._stated:
                raise ValueError(f"{self.kind} {name!r} is the project's own: choose another name")
            if self.hashed and not version:
                source_hash(entry, self.kind)
            self._stated[name] = version
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str):
        if name not in self:
            raise ValueError(f"{self.kind} is {name!r}: allowed are {', '.join(self)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def version(self, name: str) -> str | None:
        """By what a user's entry is known beside its name, as it is now; None for the project's.

        It is taken anew each time, because what an entry uses may be edited behind its back.
        """
        if not self.hashed or name not in self._stated:
            return None
        return self._stated[name] or source_hash(self._entries[name], self.kind)

    def forget(self, name: str) -> None:
        """Take a user's entry out again."""
        del self._entries[name]
        self._stated.pop(name, None)

    @property
    def _known(self):
        """All entries, those of the home too."""
        importlib.import_module(self.home)
        return self._entries


def source_hash(entry: Callable, kind: str = "function", lenient: bool = False) -> str:
    """16 hex digits from the source of ``entry`` and of all of its own that it uses.

    That is what it closes over, its defaults, and what it names of its module: functions and
    classes by their source, values by their content. What other packages hold counts by its name.
    Raises ``ValueError`` where a source cannot be read, or a value has no content to be hashed;
    ``lenient`` such a value counts by its type, and a function without source by its code.
    """
    digest, seen, who = hashlib.blake2b(digest_size=8), set(), getattr(entry, "__name__", kind)

    def take(value, what):
        value = getattr(value, "fget", getattr(value, "__func__", value))  # of a method
        parts: Any = {}
        content = type(value).__name__
        if isinstance(value, (types.FunctionType, type)) and value.__module__ == entry.__module__:
            parts = {} if id(value) in seen else _parts(value, lenient)
            seen.add(id(value))
        elif isinstance(value, types.ModuleType) or hasattr(value, "__qualname__"):
            content += f"{getattr(value, '__module__', '')} {value.__name__}"
        elif isinstance(value, (dict, list, tuple)):
            parts = value if isinstance(value, dict) else dict(enumerate(value))
        elif hasattr(value, "detach") or hasattr(value, "tobytes"):
            array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
            content += f"{array.dtype}{array.shape}{array.tobytes().hex()}"
        elif isinstance(value, (int, float, complex, str, bytes)) or content in PLAIN:
            content += repr(value)
        elif not lenient:
            raise ValueError(
                f"{kind} {who!r} uses {what}, a {content} that cannot be hashed: {STATE_ONE}"
            )
        digest.update(f"{what} {content}:{len(parts)}".encode())
        for name in sorted(parts, key=str):
            take(parts[name], name)

    take(entry, who)
    return digest.hexdigest()


def _parts(value, lenient):
    """What makes a function or a class: its name, its source, and all that it uses, by name."""
    if isinstance(value, type):
        kept = {
            f"{base.__qualname__}.{name}": member
            for base in value.__mro__
            if base.__module__ == value.__module__
            for name, member in vars(base).items()
            if inspect.isroutine(member) or not name.startswith(("__", "_abc_"))
        }
        return {**kept, "": [base.__qualname__ for base in value.__mro__]}
    code, used = value.__code__, dict(inspect.getclosurevars(value).nonlocals)
    used |= {name: value.__globals__[name] for name in _globals(code) if name in value.__globals__}
    defaults = [value.__defaults__, value.__kwdefaults__]
    return {**used, "": [value.__qualname__, _source(code, lenient), defaults]}


@functools.cache
def _globals(code: types.CodeType) -> list[str]:
    """The global names that ``code`` reads, in the functions within it too."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return sorted(names.union(*map(_globals, inner)))


@functools.cache  # as it was when first asked for: files change
def _source(code: types.CodeType, lenient: bool) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError) as error:
        if not lenient:
            raise ValueError(
                f"the source of {code.co_name!r} cannot be read: {STATE_ONE}"
            ) from error
    constants = [const for const in code.co_consts if not isinstance(const, types.CodeType)]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def load_plugin(plugin: str) -> None:
    """Run a .py file that registers things; its path is seen from the current folder.

    Raises ``ValueError`` where there is no such file, or it does not run.
    """
    path = Path(str(plugin)).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"plugin is {plugin!r}: allowed is a .py file; {path} is none")
    name = f"plugin_{path.stem}"
    module = sys.modules[name] = types.ModuleType(name)
    linecache.checkcache(str(path))  # an edited file has another source
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    except Exception as error:
        raise ValueError(
            f"plugin is {plugin!r}: it does not run ({type(error).__name__}: {error})"
        ) from error


network = Registry("network", "lib.models.networks")
initializer = Registry("initializer", "lib.models.initializers")
dataset = Registry("dataset", "lib.data.sets", hashed=False)
criterion = Registry("criterion", "lib.masks.criteria")
mask_update = Registry("mask_update", "lib.masks.dynamic")
monitor = Registry("monitor", "lib.training.monitors")
selection = Registry("selection", "lib.training.selection")
objective = Registry("objective", "lib.training.objectives")


def own() -> list[tuple[str, str, Any, str | None]]:
    """What a user registered: kind, name, entry, and its version as it is now."""
    kinds = (network, initializer, dataset, criterion, mask_update, monitor, selection, objective)
    return [(k.kind, name, k[name], k.version(name)) for k in kinds for name in k._stated]
