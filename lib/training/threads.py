"""How many threads do the work of a cohort: workers take its groups of members in turn.

Bits depend on the threads that share a sum. So a pass has as many as its recipe says, in any
cohort; more help only where they split the members of batched products, or rows of sparse ones.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from typing import Any

import torch

LANES = 8  # at most; more need more memory
# FLOPs: of steps of 845e9 an H200 does 1.3 times as many on two lanes, and no more on four
FILLS = 1.7e12


def plan(
    members: int, live: int, work: float, batched: bool, cores: int, threads: int = 1
) -> tuple[list[int], int, int]:
    """(sizes of the groups, workers, threads of each) for ``members``, and ``live`` ones behind.

    A step of one of the ``members`` costs ``work`` FLOPs. Small networks are grouped until a step
    is worth its calls (about 60 MFLOP); those whose steps cost their live weights alone
    (``lib.sparse.live``) are groups of one. A worker takes a group at a time, with the ``threads``
    of the recipe. Where there are fewer groups than ``cores``, spare ones help with the steps of a
    group of many small members (never more of them than members), or of live ones.

    >>> plan(3, 0, 1e9, False, cores=2), plan(32, 0, 1e6, True, cores=2)
    (([1, 1, 1], 2, 1), ([32], 1, 2))
    """
    size = max(1, min(members, round(60e6 / work))) if batched else 1
    groups = -(-members // size)
    size = -(-members // max(groups, 1))
    sizes = [min(size, members - k * size) for k in range(groups)] + [1] * live
    workers = min(max(1, cores // threads), len(sizes))
    alone = members and (not batched or size < 8 or size * work < 5e6)
    return sizes, workers, threads if alone else min([cores // workers, *sizes[:groups]])


def abreast(turns: Sequence[Callable[[], Any]], work: float) -> list:
    """What each of the ``turns``, of ``work`` FLOPs, gives on the current GPU.

    While a step is recorded they go on parallel streams, as many as fill the GPU. Launched one by
    one they would not overlap: the host is not fast enough.
    """
    count, main = min(LANES, round(FILLS / max(work, 1.0)), len(turns)), torch.cuda.current_stream()
    if count < 2 or not torch.cuda.is_current_stream_capturing():
        return [turn() for turn in turns]
    streams, found = [torch.cuda.Stream() for _ in range(count)], []
    for k, turn in enumerate(turns):
        with torch.cuda.stream(streams[k % count]):
            streams[k % count].wait_stream(main)
            found.append(turn())
    for stream in streams:
        main.wait_stream(stream)
    return found


class Workers:
    """``count`` workers; each piece of work says on how many threads it computes.

    A lone worker is the calling thread itself: another one would have OpenMP threads of its own,
    and where there are more of these than cores they no longer wait actively, which halves the
    speed of small operations. Several workers stay from epoch to epoch: a new thread would set up
    its buffers for matrix products anew.
    """

    def __init__(self, count: int):
        self.cancelled = threading.Event()  # set when one fails
        self.pool = ThreadPoolExecutor(count) if count > 1 else None

    def each(self, work: Callable[[Any], None], items: Iterable) -> None:
        """``work(item)`` for every one of the ``items``; where one fails the others stop soon."""
        if self.pool is None:
            for item in items:
                work(item)
            return
        tasks = [self.pool.submit(work, item) for item in items]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            self.cancelled.set()
            wait(tasks)
            raise

    def close(self) -> None:
        """Let the threads go."""
        if self.pool:
            self.pool.shutdown()
