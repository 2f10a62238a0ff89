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
from collections import deque
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

    On a GPU copies run on a stream of their own. One batch more than `ahead` may be on the device beside the one in
    use: that for which there is no room yet.
    """

    def __init__(self, batches: Iterable[Collated], device: str | torch.device, *, ahead: int = 2) -> None:
        self._batches, self._device, self._ahead = batches, torch.device(device), ahead
        self._on_host = self._device.type == "cpu"
        self._backend = torch.get_device_module(self._device)
        if not self._on_host and str(self._device) == self._device.type:  # any: the thread would take the first
            self._device = torch.device(self._device.type, self._backend.current_device())
        self._pauses: deque[tuple[Any, Any]] = deque()  # begin and end of those that are not yet added up
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """Seconds for which the device had nothing to do because no batch was there.

        A GPU works on while Python waits, and waits for a copy while Python goes on. So it is its own clock that is
        read (events): from where all that it was given before is done and the next batch was asked for, to where that
        batch has been copied. On a CPU these are the seconds for which the caller was kept.
        """
        if not self._on_host:
            for _, given in self._pauses:
                given.synchronize()
        self._add_up()
        return self._waited

    def __iter__(self) -> Iterator[Collated]:
        ready: queue.Queue[Any] = queue.Queue(self._ahead)
        stop = threading.Event()
        reader = threading.Thread(target=self._fill, args=(ready, stop), name="tarsia-prefetch", daemon=True)
        reader.start()
        try:
            while True:
                asked = self._now()
                batch, copied = ready.get()
                if copied is not None:
                    self._stream().wait_event(copied)
                self._pauses.append((asked, self._now()))
                self._add_up()
                if isinstance(batch, BaseException):
                    raise batch
                if batch is None:
                    return
                yield batch if self._on_host else batch.map(self._used_here)
        finally:
            stop.set()
            while reader.is_alive():  # it may stand before a full queue
                _drain(ready)
                reader.join(0.01)

    def _fill(self, ready: "queue.Queue[Any]", stop: threading.Event) -> None:
        try:
            side = None if self._on_host else self._side()
            for batch in self._batches:
                if stop.is_set():
                    return
                ready.put((batch, None) if side is None else self._moved(batch, side))
            ready.put((None, None))
        except BaseException as error:
            ready.put((error, None))

    def _side(self) -> Any:
        """The stream of the copies. A thread begins on the first device, where pinning would leave half a gigabyte."""
        self._backend.set_device(self._device)
        return self._backend.Stream(device=self._device)

    def _moved(self, batch: Collated, side: Any) -> tuple[Collated, Any]:
        """The batch as it will be on the device when the event has come.

        What torch has pinned it does not use again before the copy is done. Empty tensors are never pinned.
        """
        pinned = batch if any(tensor.is_pinned() for tensor in batch.arrays.values()) else batch.pin_memory()
        with self._backend.stream(side):
            return pinned.to(self._device, non_blocking=True), side.record_event()

    def _used_here(self, tensor: torch.Tensor) -> torch.Tensor:
        """Keeps the copy's memory from being given away while the caller's stream uses it."""
        tensor.record_stream(self._stream())
        return tensor

    def _stream(self) -> Any:
        """The one that the caller's work is queued on."""
        return self._backend.current_stream(self._device)

    def _now(self) -> Any:
        """The present moment; of a GPU the one at which all that it was given so far is done."""
        if self._on_host:
            return time.perf_counter()
        event = self._backend.Event(enable_timing=True)
        event.record(self._stream())
        return event

    def _add_up(self) -> None:
        """Adds the pauses that are over: the events of a GPU tell their times when it has come to them."""
        while self._pauses and (self._on_host or self._pauses[0][1].query()):
            asked, given = self._pauses.popleft()
            self._waited += given - asked if self._on_host else asked.elapsed_time(given) / 1000


def _drain(ready: "queue.Queue[Any]") -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
