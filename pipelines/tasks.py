"""A task: a small frozen value that knows how to run, and where its result is recorded.

The record is created last and only once, so that *resume is plan minus records*: whoever runs the same plan again finds
what is done and does the rest. Bytes of media never travel between processes: a task's arguments are paths, its result
is a page of JSON.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import orjson

from tarsia.builders.storage import Store, open_store
from tarsia.schemas.errors import Corrupt, Exists
from tarsia.schemas.identity import canonical


class Task(Protocol):
    """One unit of work. Running it twice must do no harm."""

    @property
    def lake(self) -> str:
        """The lake that the record is kept in."""

    @property
    def record(self) -> str:
        """The path of the record, a function of everything that the result depends on.

        Empty for work that leaves its own traces, as verdicts are: nothing else is recorded.
        """

    def run(self) -> Any:
        """Does the work; the result is JSON."""


def work(task: Task) -> Any:
    """Runs one task and records its result; a twin that was faster must have found the same."""
    result = orjson.loads(canonical(task.run()))
    if not task.record:
        return result
    store = open_store(task.lake)
    try:
        store.create(task.record, canonical(result))
    except Exists:
        if recorded(store, task.record) != result:
            raise Corrupt(f"{task.record}: two runs of one task gave different results") from None
    return result


def recorded(store: Store, path: str) -> Any:
    """What the record of a task says; `Corrupt` with what to do where it is none any more."""
    try:
        return orjson.loads(store.read(path))
    except orjson.JSONDecodeError as error:
        said = f"{store.url}/{path}: cannot be read: {error}; delete this file and run the same command again"
        raise Corrupt(said) from error


def bounded(tasks: Iterable[Task], submit: Any, window: int, done: Any) -> Iterator[tuple[Any, Task]]:
    """Keeps `window` tasks in flight; yields each ticket with its task once it is done."""
    waiting: dict[Any, Task] = {}
    for task in tasks:
        waiting[submit(task)] = task
        if len(waiting) >= window:
            for ticket in done(list(waiting)):
                yield ticket, waiting.pop(ticket)
    while waiting:
        for ticket in done(list(waiting)):
            yield ticket, waiting.pop(ticket)
