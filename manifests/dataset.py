"""The stream as PyTorch datasets, and its batches on a device. The only file that imports torch.

    data = CollatedDataset("s3://bucket/lake", "vita-1.5/2.2", batch=64, threads=4)     decoded in threads of its own
    data = DataLoader(CollatedDataset(…), batch_size=None, num_workers=4)              or in worker processes
    for batch in Prefetcher(data, "cuda"): loss = model(batch["ids"], …)               copied while the model works

Each item is a rank's slice of one global batch with the state that resumes after it, because a dataset in the main
process cannot see how far its workers have come. Rank and world are those of `torch.distributed` where it runs.
"""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import IterableDataset, get_worker_info

from tarsia.builders.pixels import MEAN, STD
from tarsia.manifests.collate import Collated, Decoder, Form
from tarsia.manifests.stream import Batch, Stream
from tarsia.manifests.utterances import form_of
from tarsia.schemas.errors import UserError

Item = TypeVar("Item", Batch, Collated)


class _StageDataset(IterableDataset[Item], Generic[Item]):
    """A planned stage in its global order, in the main process or dealt out to workers."""

    def __init__(
        self, lake: str, stage: str, *, rank: int | None = None, world: int | None = None, **options: Any
    ) -> None:
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.stream = Stream(
            lake,
            stage,
            rank=rank if rank is not None else torch.distributed.get_rank() if running else 0,
            world=world if world is not None else torch.distributed.get_world_size() if running else 1,
            **options,
        )
        self._state = self.stream.state_dict()
        self._dealt: int | None = None  # among how many workers, by the state that was loaded, if it was a worker's

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        state: dict[str, Any] = {"workers": workers} if worker else {}
        if self._dealt is not None:  # after this worker's last slice come those of all the others
            number = workers - 1
            if self._dealt != workers:
                raise UserError(
                    f"this state is that of one of {self._dealt} workers, here are {workers}; "
                    "a batch's own state resumes on any number"
                )
        for item in self._read(self.stream.slices(number, workers)):
            self._state = {**item.state, **state}
            yield item

    def _read(self, batches: Iterator[Batch]) -> Iterator[Item]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Where this process goes on.

        In a worker (torchdata's StatefulDataLoader asks there) that is for the same worker of as many; the `state` of
        a batch is for any number of ranks and workers.
        """
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a state says: a batch's on any number of ranks and workers, a worker's on as many."""
        self.stream.load_state_dict(state)
        self._state, self._dealt = state, state.get("workers")


class ContextDataset(_StageDataset[Batch]):
    """Contexts of a planned stage in their global order, with their media as bytes. Use with `batch_size=None`.

    Options are those of `Stream`: `batch` and so on.
    """

    def _read(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return batches


class CollatedDataset(_StageDataset[Collated]):
    """Batches of tensors in the global order of their contexts. Use with `batch_size=None`.

    Which tensors the stage says, or that of its steps which is named; another `form` gives others
    (`manifests/collate.py`). `threads` decode `ahead` batches of the one that is trained on,
    0 decodes in the caller, as befits workers. More than `broken` media that cannot be decoded raise `Corrupt`. Other
    options are those of `Stream`: `batch` and so on.
    """

    def __init__(
        self,
        lake: str,
        stage: str,
        *,
        step: str | None = None,
        form: Form[Any] | None = None,
        threads: int = 0,
        ahead: int = 2,
        broken: int = 0,
        rank: int | None = None,
        world: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(lake, stage, rank=rank, world=world, **options)
        manifest = self.stream.manifest
        form = form if form is not None else form_of(manifest.stage, step)
        self._decoder = Decoder(manifest.context, form, threads=threads, ahead=ahead, broken=broken)

    def _read(self, batches: Iterator[Batch]) -> Iterator[Collated]:
        return (batch.map(torch.from_numpy) for batch in self._decoder(batches))


def normalised(squares: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Squares of (n, 448, 448, 3) as InternViT takes them, (n, 3, 448, 448): from 0 to 1, less mean, over deviation."""
    mean, deviation = (torch.tensor(values, device=squares.device) for values in (MEAN, STD))
    return torch.addcmul(-mean / deviation, squares.float(), 1 / (255 * deviation)).to(dtype).permute(0, 3, 1, 2)


class Prefetcher:
    """Batches on a device: read, pinned and copied by a thread, the next `ahead` of them while the model works.

    On a GPU copies run on a stream of their own. `waited` is how many seconds the caller has waited for batches.
    """

    def __init__(self, batches: Iterable[Collated], device: str | torch.device, *, ahead: int = 2) -> None:
        self._batches, self._device, self._ahead = batches, torch.device(device), ahead
        self._on_host = self._device.type == "cpu"
        if not self._on_host and str(self._device) == self._device.type:  # any: the thread would take the first
            self._device = torch.device(self._device.type, torch.get_device_module(self._device).current_device())
        self.waited = 0.0

    def __iter__(self) -> Iterator[Collated]:
        device = torch.get_device_module(self._device)
        ready: queue.Queue[Any] = queue.Queue(self._ahead)
        stop = threading.Event()
        reader = threading.Thread(target=self._fill, args=(device, ready, stop), name="tarsia-prefetch", daemon=True)
        reader.start()
        try:
            while True:
                began = time.perf_counter()
                batch, copied = ready.get()
                self.waited += time.perf_counter() - began
                if isinstance(batch, BaseException):
                    raise batch
                if batch is None:
                    return
                device.current_stream(self._device).wait_event(copied)
                yield batch if self._on_host else batch.map(self._used_here)
        finally:
            stop.set()
            while reader.is_alive():  # it may stand before a full queue
                _drain(ready)
                reader.join(0.01)

    def _fill(self, device: Any, ready: "queue.Queue[Any]", stop: threading.Event) -> None:
        try:
            side = device.Stream() if self._on_host else device.Stream(device=self._device)
            for batch in self._batches:
                if stop.is_set():
                    return
                with device.stream(side):
                    moved = batch if self._on_host else self._moved(batch)
                    ready.put((moved, side.record_event()))
            ready.put((None, None))
        except BaseException as error:
            ready.put((error, None))

    def _moved(self, batch: Collated) -> Collated:
        pinned = batch if any(tensor.is_pinned() for tensor in batch.arrays.values()) else batch.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def _used_here(self, tensor: torch.Tensor) -> torch.Tensor:
        """Keeps the copy's memory from being given away while the caller's stream uses it."""
        tensor.record_stream(torch.get_device_module(self._device).current_stream(self._device))
        return tensor


def _drain(ready: "queue.Queue[Any]") -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
