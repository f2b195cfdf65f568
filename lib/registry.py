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
            self._load()
            if name in self._entries and name not in self._stated:
                raise ValueError(f"{self.kind} {name!r} is the project's own: choose another name")
            if self.hashed and not version:
                source_hash(entry, self.kind)
            self._stated[name] = version
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str):
        self._load()
        if name not in self._entries:
            raise ValueError(f"{self.kind} is {name!r}: allowed are {', '.join(self)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

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

    def _load(self):
        importlib.import_module(self.home)


def source_hash(entry: Callable, kind: str = "function", lenient: bool = False) -> str:
    """16 hex digits from the source of ``entry`` and of all of its own that it uses.

    That is what it closes over, its defaults, and what it names of its module: functions and
    classes by their source, values by their content. What other packages hold counts by its name.
    Raises ``ValueError`` where a source cannot be read, or a value has no content to be hashed;
    ``lenient`` such a value counts by its type, and a function without source by its code.
    """
    digest, seen, who = hashlib.blake2b(digest_size=8), set(), getattr(entry, "__name__", kind)

    def take(value, what):
        value = getattr(value, "__func__", value)  # of a method
        digest.update(f"{what} {type(value).__name__}:".encode())
        if isinstance(value, (types.FunctionType, type)) and value.__module__ == entry.__module__:
            if id(value) not in seen:
                seen.add(id(value))
                take(_parts(value, kind, who, lenient), what)
        elif isinstance(value, types.ModuleType) or hasattr(value, "__qualname__"):
            digest.update(f"{getattr(value, '__module__', '')} {value.__name__}".encode())
        elif isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                take(part, f"{what}[{number}]")
        elif isinstance(value, dict):
            for name in sorted(value, key=str):
                take(value[name], name if what == who else f"{what}[{name!r}]")
        elif hasattr(value, "detach") or hasattr(value, "tobytes"):
            array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif (
            value is None
            or isinstance(value, (bool, int, float, complex, str, bytes))
            or (type(value).__name__ in ("dtype", "device"))
        ):
            digest.update(repr(value).encode())
        elif lenient:
            take(type(value), what)
        else:
            raise ValueError(
                f"{kind} {who!r} uses {what}, a {type(value).__name__} that cannot be "
                "hashed: give a version, such as version='1', and change it with the function"
            )

    take(entry, who)
    return digest.hexdigest()


def _parts(value, kind, who, lenient):
    """What makes a function or a class: its name, its source, and all that it uses, by name."""
    if isinstance(value, type):
        own = [base for base in value.__mro__ if base.__module__ == value.__module__]
        members = {f"{base.__qualname__}.{k}": v for base in own for k, v in vars(base).items()}
        named = {k: getattr(v, "__func__", getattr(v, "fget", v)) for k, v in members.items()}
        kept = {
            name: member
            for name, member in named.items()
            if isinstance(member, types.FunctionType)
            or not name.split(".")[-1].startswith(("__", "_abc_"))
        }
        return {**kept, "": [base.__qualname__ for base in value.__mro__]}
    used = dict(inspect.getclosurevars(value).nonlocals)
    used |= {k: value.__globals__[k] for k in _globals(value.__code__) if k in value.__globals__}
    defaults = [value.__defaults__, value.__kwdefaults__]
    return {**used, "": [value.__qualname__, _source(value, kind, who, lenient), defaults]}


@functools.cache
def _globals(code: types.CodeType) -> list[str]:
    """The global names that ``code`` reads, in the functions within it too."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return sorted(names.union(*map(_globals, inner)))


_SOURCES: dict[types.CodeType, str] = {}  # as they were when first asked for: files change


def _source(function, kind, who, lenient):
    code = function.__code__
    if code not in _SOURCES:
        bare = types.FunctionType(code, function.__globals__, closure=function.__closure__)
        try:
            _SOURCES[code] = inspect.getsource(bare)  # its own, and not that of what it wraps
        except (OSError, TypeError) as error:
            if lenient:
                constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
                return f"{code.co_code.hex()} {code.co_names} {constants}"
            raise ValueError(
                f"the source of {kind} {who!r} cannot be read: give a version, such as "
                "version='1', and change it with the function"
            ) from error
    return _SOURCES[code]


def load_plugin(plugin: str) -> None:
    """Run a .py file that registers things; its path is seen from the current folder.

    Raises ``ValueError`` where there is no such file, or it does not run.
    """
    path = Path(str(plugin)).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"plugin is {plugin!r}: allowed is a .py file; {path} is none")
    module = types.ModuleType(f"plugin_{path.stem}")
    sys.modules[module.__name__] = module
    linecache.checkcache(str(path))  # an edited file has another source
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"plugin is {plugin!r}: it does not run ({words})") from error


network = Registry("network", "lib.models.networks")
initializer = Registry("initializer", "lib.models.initializers")
dataset = Registry("dataset", "lib.data.sets", hashed=False)
criterion = Registry("criterion", "lib.masks.criteria")
mask_update = Registry("mask_update", "lib.masks.dynamic")
monitor = Registry("monitor", "lib.training.monitors")
