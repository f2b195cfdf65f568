"""How many threads do the work of a cohort: workers take its groups of members in turn."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from typing import Any

import torch


def plan(
    members: int, live: int, work: float, batched: bool, cores: int
) -> tuple[list[int], int, int]:
    """(sizes of the groups, workers, threads of each) for ``members``, and ``live`` ones behind.

    A step of one of the ``members`` costs ``work`` FLOPs. Small networks are grouped until a step
    is worth its calls (about 60 MFLOP); those whose steps cost their live weights alone
    (``lib.sparse.live``) are groups of one. A worker takes a group at a time and computes with one
    thread; where there are fewer groups than cores, spare cores help with a group of many members,
    or with a lone large one (whose convolutions then add up in another order than in a cohort).
    """
    size = max(1, min(members, round(60e6 / work))) if batched else 1
    groups = -(-members // size)
    size = -(-members // max(groups, 1))
    sizes = [min(size, members - k * size) for k in range(groups)] + [1] * live
    workers = min(cores, len(sizes))
    # batched products are split between members: the bits stay
    shared = members and (work > 100e6 or (size >= 8 and size * work > 5e6))
    return sizes, workers, cores // workers if shared else 1


class Workers:
    """``count`` workers with ``threads`` threads each.

    A lone worker is the calling thread itself: another one would have OpenMP threads of its own,
    and where there are more of these than cores they no longer wait actively, which halves the
    speed of small operations. Several workers stay from epoch to epoch: a new thread would set up
    its buffers for matrix products anew.
    """

    def __init__(self, count: int, threads: int):
        self.count, self.threads = count, threads
        self.cancelled = threading.Event()  # set when one fails
        pool = ThreadPoolExecutor(count, "", torch.set_num_threads, (threads,))
        self.pool = pool if count > 1 else None  # it has no threads before it has work

    def each(self, work: Callable[[Any], None], items: Iterable) -> None:
        """``work(item)`` for every one of the ``items``; where one fails the others stop soon."""
        if self.pool is None:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                for item in items:
                    work(item)
            finally:
                torch.set_num_threads(before)
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
