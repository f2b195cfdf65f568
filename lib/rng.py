"""Named randomness: every draw has its own generator, derived from a seed and the draw's name.

Nothing in this project touches a global random state. Generators live on the CPU and their numbers
are moved, so that a run draws the same numbers on every device and in every cohort. Sums too
have a number of threads: their last bits depend on it.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(seed: int, *name) -> int:
    """The 63-bit seed that belongs to ``name`` (any printable parts) under the run's ``seed``."""
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *name) -> torch.Generator:
    """A fresh CPU generator for one named draw, e.g. ``generator(seed, "order", epoch)``."""
    return torch.Generator().manual_seed(derived_seed(seed, *name))


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads, whatever number is at hand; it stands again afterwards.

    >>> on_threads(3)(torch.get_num_threads)()
    3
    """
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(count)
        yield
