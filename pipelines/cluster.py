"""Ray: the same tasks on a cluster. The only file that imports it.

Ray Core, one remote call a task: arguments and results are a page each, media never enter the object store, and a task
whose worker dies is run again, which is harmless because records are created once.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from tarsia.pipelines.tasks import Task, bounded, work
from tarsia.schemas.errors import MissingExtra, StorageFault, TarsiaError


class Cluster:
    """A Ray cluster: `local` starts one here, anything else is the address of one that runs (`auto` finds it)."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("ray", "ray") from error
        os.environ.setdefault(
            "RAY_IGNORE_UNHANDLED_ERRORS", "1"
        )  # the first error is raised; more of the same are noise
        self._ray: Any = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                _knock(address)
                ray.init(
                    address=None if address == "local" else address,
                    include_dashboard=False if address == "local" else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except OSError as error:
                raise StorageFault(f"no Ray cluster at '{address}': {error}") from error
            except Exception as error:  # Ray's own, of no kind: a node that does not start in time
                raise TarsiaError(f"Ray does not start: {error}") from error
        self._call = ray.remote(max_retries=3)(work)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine:
            self._ray.shutdown()

    @property
    def workers(self) -> int:
        """The processors of the cluster."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(self, tasks: Sequence[Task], *, at_once: bool = False) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they come."""
        del at_once
        ray, window = self._ray, 2 * self.workers

        def done(tickets: list[Any]) -> list[Any]:
            return list(ray.wait(tickets, num_returns=1)[0])

        try:
            for ticket, task in bounded(tasks, self._call.remote, window, done):
                yield task, ray.get(ticket)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TarsiaError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            raise TarsiaError(f"Ray gave up: {error}; nothing finished is lost: run the same command again") from error


def _knock(address: str) -> None:
    """Raises `OSError` when nobody listens there; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
