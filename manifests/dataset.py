"""The stream as a PyTorch dataset. The only file that imports torch.

    loader = DataLoader(ContextDataset("s3://bucket/lake", "vita-1.5/2.2", batch=64), batch_size=None, num_workers=4)

Each item is a rank's slice of one global batch with the state that resumes after it, because a dataset in the main
process cannot see how far its workers have come. Rank and world are those of `torch.distributed` where it runs.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from tarsia.manifests.stream import Batch, Stream


class ContextDataset(IterableDataset[Batch]):
    """Contexts of a planned stage in their global order. Use with `batch_size=None`."""

    def __init__(
        self, lake: str, stage: str, *, batch: int = 1, rank: int | None = None, world: int | None = None
    ) -> None:
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.stream = Stream(
            lake,
            stage,
            batch=batch,
            rank=rank if rank is not None else torch.distributed.get_rank() if running else 0,
            world=world if world is not None else torch.distributed.get_world_size() if running else 1,
        )

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        return self.stream.slices(worker.id, worker.num_workers) if worker else self.stream.slices()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands in this process; with workers, keep the state of the last batch instead."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a state says, on any number of ranks and workers."""
        self.stream.load_state_dict(state)
