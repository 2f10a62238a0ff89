"""Where tasks run: in this process, in a local pool of processes, or on Ray; the very same tasks, the very same bytes.

The local pool is the default, since a small job should not wait ten seconds for a cluster to start. A task that takes
a minute loses at most that minute when its process is killed.
"""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

from tarsia.builders.storage import open_store
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.tasks import Task, bounded, recorded, work
from tarsia.schemas.errors import TarsiaError

T = TypeVar("T")


class Pool(Protocol):
    """Runs tasks, a bounded number at a time, and yields results as they come."""

    @property
    def workers(self) -> int:
        """How many tasks run at the same time."""

    def map(self, tasks: Sequence[Task], *, at_once: bool = False) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, in any order. `at_once`: they take long, none waits to see whether it must."""


def finish(tasks: Sequence[Task], pool: Pool, progress: Progress) -> list[Any]:
    """The results of all tasks, in the order of the tasks; those recorded before are not run again."""
    results: dict[str, Any] = {}
    todo = list(tasks)
    for lake in {task.lake for task in tasks}:
        store = open_store(lake)
        folders = {task.record.rsplit("/", 1)[0] for task in tasks}
        there = {entry.path for folder in folders for entry in store.list(folder)}
        for task in tasks:
            if task.lake == lake and task.record in there:
                results[task.record] = recorded(store, task.record)
        todo = [task for task in todo if task.record not in results]
    progress.start(len(tasks), done=len(tasks) - len(todo))
    try:
        for task, result in pool.map(todo):
            results[task.record] = result
            progress.step()
    finally:
        progress.stop()
    return [results[task.record] for task in tasks]


def grouped(sized: Iterable[tuple[T, int]], most: int) -> list[tuple[T, ...]]:
    """Things of some size each, in groups for a task each: a large one alone, small ones until they make `most`."""
    groups: list[tuple[T, ...]] = []
    group: list[T] = []
    total = 0
    for thing, size in sized:
        group.append(thing)
        total += size
        if total >= most:
            groups.append(tuple(group))
            group, total = [], 0
    return [*groups, tuple(group)] if group else groups


@contextmanager
def open_pool(workers: int | None = None, ray: str | None = None, *, patience: float = 3.0) -> Iterator[Pool]:
    """A pool for one command: `ray` is None, `local`, or an address; `workers` is for the local pool.

    Local processes cost a second each to start, so they are started only when `patience` seconds of work in this
    process did not do it.
    """
    if ray is not None:
        from tarsia.pipelines.cluster import Cluster

        with Cluster(ray) as cluster:
            yield cluster
        return
    count = workers or os.cpu_count() or 1
    with _settled(), _Processes(count, patience) if count > 1 else nullcontext(_Here()) as pool:
        yield pool


@contextmanager
def _settled() -> Iterator[None]:
    """What stands now is not searched for garbage again and again: modules are, a tenth of the time of small tasks."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Here:
    """One after the other, in this process."""

    workers = 1

    def map(self, tasks: Sequence[Task], *, at_once: bool = False) -> Iterator[tuple[Task, Any]]:
        del at_once
        for task in tasks:
            yield task, work(task)


class _Processes:
    """Local processes, started when there is enough to share."""

    def __init__(self, count: int, patience: float) -> None:
        self.workers = count
        self._patience = patience
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def map(self, tasks: Sequence[Task], *, at_once: bool = False) -> Iterator[tuple[Task, Any]]:
        began, patience = time.monotonic(), 0.0 if at_once else self._patience
        while tasks and self._pool is None and (len(tasks) == 1 or time.monotonic() - began < patience):
            yield tasks[0], work(tasks[0])
            tasks = tasks[1:]
        if not tasks:
            return
        if self._pool is None:
            # spawned, not forked: the store's threads would not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin)
        pool = self._pool
        try:
            for future, task in bounded(tasks, lambda task: pool.submit(work, task), self.workers * 2, _any_done):
                yield task, future.result()
        except BrokenProcessPool as error:
            raise TarsiaError(
                "a worker process died (killed, or out of memory); nothing finished is lost: run the same command again"
            ) from error


def _begin() -> None:
    """A worker ends without a word when it is interrupted, and with its parent even when that is killed."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _any_done(futures: Iterable[Future[Any]]) -> Iterable[Future[Any]]:
    return wait(futures, return_when=FIRST_COMPLETED).done
