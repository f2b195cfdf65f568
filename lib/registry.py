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

import hashlib
import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Registry(Mapping[str, Any]):
    """What is registered as a ``kind``; ``home`` is the module that registers what stands inside.

    That module is imported when a name is first looked up, so that a registry costs nothing before.
    """

    def __init__(self, kind: str, home: str):
        self.kind, self.home = kind, home
        self._entries: dict[str, Any] = {}
        self._versions: dict[str, str] = {}

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
            if name in self._entries and name not in self._versions:
                raise ValueError(f"{self.kind} {name!r} is the project's own: choose another name")
            self._versions[name] = version or source_hash(entry, self.kind)
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
        return name in list(self)

    def version(self, name: str) -> str | None:
        """The hash by which a user's entry is known beside its name; None for the project's own."""
        return self._versions.get(name)

    def forget(self, name: str) -> None:
        """Take a user's entry out again."""
        del self._entries[name], self._versions[name]

    def _load(self):
        importlib.import_module(self.home)


def source_hash(entry: Callable, kind: str = "function", lenient: bool = False) -> str:
    """16 hex digits from the source of ``entry`` and of all of its own that it uses.

    That is what it closes over and what it names of its module: functions and classes by their
    source, values by their content. What other packages hold counts by its name. Raises
    ``ValueError`` where a source cannot be read, or a value has no content that could be hashed;
    ``lenient`` such a value counts by its type, and a function without source by its code.
    """
    digest, seen = hashlib.blake2b(digest_size=8), set()

    def take(value, what):
        value = getattr(value, "__func__", value)  # of a method
        if isinstance(value, types.ModuleType):
            digest.update(value.__name__.encode())
        elif isinstance(value, (types.FunctionType, type)):
            if id(value) in seen:
                return
            seen.add(id(value))
            digest.update(f"{value.__module__}.{value.__qualname__}".encode())
            if value.__module__ == entry.__module__:
                for function in _functions(value):
                    digest.update(_source(function, kind, entry, lenient).encode())
                    used = inspect.getclosurevars(function)
                    for name, of in sorted({**used.nonlocals, **used.globals}.items()):
                        digest.update(name.encode())
                        take(of, name)
        elif isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                take(part, f"{what}[{number}]")
        elif isinstance(value, dict):
            for name in sorted(value, key=str):
                digest.update(str(name).encode())
                take(value[name], f"{what}[{name!r}]")
        elif hasattr(value, "detach") or hasattr(value, "tobytes"):
            array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            digest.update(repr(value).encode())
        elif lenient:
            take(type(value), what)
        else:
            raise ValueError(
                f"{kind} {entry.__name__!r} uses {what}, a {type(value).__name__} that cannot be "
                "hashed: give a version, such as version='1', and change it with the function"
            )

    take(entry, getattr(entry, "__name__", kind))
    return digest.hexdigest()


def _functions(value):
    """A function itself, or the functions in a class and in its own bases."""
    if isinstance(value, types.FunctionType):
        return [value]
    own = [base for base in value.__mro__ if base.__module__ == value.__module__]
    members = [member for base in own for _, member in sorted(vars(base).items())]
    members = [getattr(member, "__func__", getattr(member, "fget", member)) for member in members]
    return [member for member in members if isinstance(member, types.FunctionType)]


def _source(function, kind, entry, lenient):
    try:
        return inspect.getsource(function)
    except (OSError, TypeError) as error:
        if lenient:
            code = function.__code__
            constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
            return f"{code.co_code.hex()} {code.co_names} {constants}"
        raise ValueError(
            f"the source of {kind} {entry.__name__!r} cannot be read: give a version, such as "
            "version='1', and change it with the function"
        ) from error


network = Registry("network", "lib.models.networks")
initializer = Registry("initializer", "lib.models.initializers")
dataset = Registry("dataset", "lib.data.sets")
criterion = Registry("criterion", "lib.masks.criteria")
mask_update = Registry("mask_update", "lib.masks.dynamic")
monitor = Registry("monitor", "lib.training.monitors")
