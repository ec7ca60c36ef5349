"""A range of independent items, done by as many threads as PyTorch may use.

The threads are Python's and the loops release its lock: unlike the thread pools of compilers this
one bears calls from several threads at once and processes that are forked after its first use, such
as those of a ``DataLoader``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

SHARE_COST = 2**18  # elementary steps, about 0.1 ms: less is not worth waking a thread for
SHARES_A_THREAD = 4  # so that one that is held up leaves the rest to the others


def in_shares(loop: Callable[..., None], items: int, item_cost: int, *arguments: object) -> None:
    """``loop(begin, end, *arguments)`` for consecutive ranges that cover 0 .. ``items``.

    ``loop`` must release the interpreter's lock. ``item_cost`` is the number of elementary steps of
    one item, roughly.
    """
    threads = torch.get_num_threads()
    share = max(-(-items // (threads * SHARES_A_THREAD)), SHARE_COST // max(item_cost, 1), 1)
    if threads == 1 or share >= items:
        loop(0, items, *arguments)
        return
    begins = deque(range(0, items, share))

    def work() -> None:
        while begins:
            try:
                begin = begins.popleft()
            except IndexError:  # another thread took the last one in between
                return
            loop(begin, min(begin + share, items), *arguments)

    helpers = [_pool().submit(work) for _ in range(min(threads, len(begins)) - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # it has begun
            helper.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="point_kernels")


# threads do not survive a fork: without its own the child would do all shares alone
os.register_at_fork(after_in_child=_pool.cache_clear)
