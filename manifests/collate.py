"""Batches: what several contexts become, and the decoding of the next ones while a model works. numpy alone.

A **form** says which arrays a context is (`arrays`) and how those of several become one batch (`collate`); `Chats`
is the form of every stage that trains on conversations, `utterances.py` has those of the speech stages. What
`Decoder` yields is `Collated`: named arrays, which contexts and samples they are, and the state that resumes after
them. docs/tensors.md lists the arrays.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.chat import Medium
from tarsia.builders.fbank import MELS
from tarsia.builders.tokens import TILE, TILE_TOKENS
from tarsia.manifests.seen import Broken
from tarsia.manifests.stream import Batch, Context, Handed
from tarsia.manifests.tensors import IGNORED, Chat, Ints, chat
from tarsia.manifests.written import KINDS
from tarsia.schemas import recipe
from tarsia.schemas.errors import Corrupt, UserError

Arrays = dict[str, NDArray[Any]]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class Collated:
    """One rank's slice of a global batch: named arrays (of numpy, or tensors of torch), and where they come from."""

    arrays: dict[str, Any]
    contexts: tuple[int, ...]  # numbers
    keys: tuple[tuple[str, ...], ...]  # of the samples of each context
    broken: tuple[Broken, ...]  # media that could not be decoded
    state: dict[str, Any]  # what the stream resumes from after this batch
    handed: Handed  # what an `Account` notes of it

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def map(self, change: Callable[[Any], Any]) -> "Collated":
        """The batch with every array changed."""
        return replace(self, arrays={name: change(array) for name, array in self.arrays.items()})

    def pin_memory(self) -> "Collated":
        """Its tensors in page-locked memory, from which a GPU copies while it works. (DataLoader calls this.)"""
        return self.map(lambda tensor: tensor.pin_memory())

    def to(self, device: Any, *, non_blocking: bool = False) -> "Collated":
        """Its tensors on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


class Form(Protocol[Item]):
    """Which arrays a stage trains on."""

    def arrays(self, context: Context, settings: recipe.Context) -> Item:
        """Those of one context, with `number`, `keys` and `broken`."""
        ...

    def collate(self, items: Sequence[Item], settings: recipe.Context) -> Arrays:
        """Those of a batch. There may be no items: ranks that do not divide a batch leave some slices empty."""
        ...


@dataclass(frozen=True)
class Chats:
    """Conversations: batches as long as their longest context, or `length` tokens each."""

    length: int | None = None

    def arrays(self, context: Context, settings: recipe.Context) -> Chat:
        """`manifests.tensors.chat`."""
        return chat(context, settings)

    def collate(self, items: Sequence[Chat], settings: recipe.Context) -> Arrays:
        """Rows filled up to one length; squares and features of the whole batch, each with where it belongs."""
        longest = max((len(item.ids) for item in items), default=0)
        length = longest if self.length is None else self.length
        if longest > length:
            raise UserError(f"a context has {longest} tokens, more than the batch's length of {length}")
        pad = items[0].filler if items else 0
        spans, features = _spans(items), [array for item in items for array in item.features]
        begins = spans[:, 0] * length + spans[:, 3]
        tokens, heard = spans[:, 4] - spans[:, 3], spans[:, 1] == KINDS.index(Medium.AUDIO)
        seen = zip(begins[~heard], tokens[~heard], strict=True)
        return {
            "ids": padded([item.ids for item in items], pad, np.int64, length),
            "labels": padded([item.labels for item in items], IGNORED, np.int64, length),
            "positions": padded([item.positions for item in items], 0, np.int64, length),
            "states": padded([item.states for item in items], IGNORED, np.int64, length),
            "lens": lengths([item.ids for item in items]),
            "cu_seqlens": _segments(items, length),
            "samples": _samples(items),
            "spans": spans,
            "squares": joined([array for item in items for array in item.squares], (TILE, TILE, 3), np.uint8),
            "squares_at": joined([np.arange(at, at + size, TILE_TOKENS) for at, size in seen], (), np.int64),
            "features": padded(features, 0, np.float32, shape=(MELS,)),
            "features_lens": lengths(features),
            "features_at": begins[heard],
            "features_tokens": tokens[heard],
            "guides_at": joined([item.guides + row * length for row, item in enumerate(items)], (), np.int64),
        }


CHATS = Chats()


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """The samples of one batch by seconds, each a conversation of its own."""

    number: int
    keys: tuple[str, ...]
    chats: tuple[Chat, ...]
    broken: tuple[Broken, ...]


@dataclass(frozen=True)
class Rows:
    """Conversations of batches by seconds: a row is one sample under its own system prompt."""

    def arrays(self, context: Context, settings: recipe.Context) -> Apart:
        """`manifests.tensors.chat` of every sample."""
        chats = tuple(
            chat(replace(context, tokens=one.tokens, samples=(one,), missing=()), settings) for one in context.samples
        )
        keys = tuple(key for one in chats for key in one.keys)
        return Apart(context.number, keys, chats, tuple(fault for one in chats for fault in one.broken))

    def collate(self, items: Sequence[Apart], settings: recipe.Context) -> Arrays:
        """As `Chats`; the rows of one context after those of another."""
        return CHATS.collate([one for item in items for one in item.chats], settings)


ROWS = Rows()


def _spans(items: Sequence[Chat]) -> Ints:
    """Chat.spans of the whole batch, each with its row in front, squares and features numbered on."""
    parts, squares, features = [np.empty((0, 5), np.int64)], 0, 0
    for row, item in enumerate(items):
        first = np.where(item.spans[:, 0] == KINDS.index(Medium.AUDIO), features, squares)
        part = np.insert(item.spans, 0, row, axis=1)
        part[:, 2] += first
        parts.append(part)
        squares, features = squares + sum(map(len, item.squares)), features + len(item.features)
    return np.concatenate(parts)


def _segments(items: Sequence[Chat], length: int) -> NDArray[np.int32]:
    """Cumulative lengths over the rows laid end to end; what fills a row up is a segment of its own."""
    ends = [np.append(item.cu_seqlens, length) + row * length for row, item in enumerate(items)]
    return np.unique(np.concatenate([np.zeros(1, np.int64), *ends])).astype(np.int32)


def _samples(items: Sequence[Chat]) -> Ints:
    """Of every sample its row, begin and end."""
    rows = [
        (row, begin, end)
        for row, item in enumerate(items)
        for begin, end in zip(item.bounds[:-1], item.bounds[1:], strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def padded(
    arrays: Sequence[NDArray[Any]], fill: float, dtype: Any, length: int | None = None, *, shape: tuple[int, ...] = ()
) -> NDArray[Any]:
    """Arrays of (length, *shape) as rows of one, each filled up to the longest or to `length`."""
    most = max(map(len, arrays), default=0) if length is None else length
    rows = np.full((len(arrays), most, *shape), fill, dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows


def lengths(arrays: Sequence[NDArray[Any]]) -> Ints:
    """How long each is."""
    return np.array([len(array) for array in arrays], np.int64)


def joined(arrays: Sequence[NDArray[Any]], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Arrays of (length, *shape) end to end; of none, one of length 0."""
    return np.concatenate([np.empty((0, *shape), dtype), *arrays])


class Decoder:
    """Collated batches of a stream, the next `ahead` of them decoded by `threads` while the caller works.

    Decoders of pictures and sound run outside Python's lock, so that threads are as good as processes and share memory.
    Without threads each batch is decoded when it is asked for, which is right inside a worker of torch's DataLoader.
    Stops with `Corrupt` when more than `broken` media could not be decoded.
    """

    def __init__(
        self, settings: recipe.Context, form: Form[Any], *, threads: int = 0, ahead: int = 2, broken: int = 0
    ) -> None:
        if threads < 0 or ahead < 1:
            raise UserError(f"threads {threads}, ahead {ahead}: threads is at least 0, ahead at least 1")
        self._settings, self._form = settings, form
        self._threads, self._ahead, self._broken = threads, ahead, broken

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Collated]:
        """Each batch of a stream as arrays, in its order."""
        left = self._broken
        for batch, items in self._threaded(batches) if self._threads else self._plain(batches):
            faults = tuple(fault for item in items for fault in item.broken)
            left -= len(faults)
            if left < 0:
                raise Corrupt(
                    f"sample {faults[-1].key}: {faults[-1].member} cannot be decoded ({faults[-1].reason}); "
                    f"that makes more than the {self._broken} broken media that are allowed"
                )
            yield Collated(
                self._form.collate(items, self._settings),
                tuple(item.number for item in items),
                tuple(item.keys for item in items),
                faults,
                batch.state,
                batch.handed,
            )

    def _plain(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[Any]]]:
        for batch in batches:
            yield batch, [self._form.arrays(context, self._settings) for context in batch.contexts]

    def _threaded(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[Any]]]:
        pool = ThreadPoolExecutor(self._threads, "tarsia-decode")
        waiting: deque[tuple[Batch, list[Future[Any]]]] = deque()
        try:
            for batch in batches:
                jobs = [pool.submit(self._form.arrays, context, self._settings) for context in batch.contexts]
                waiting.append((batch, jobs))
                if len(waiting) > self._ahead:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _done(batch: Batch, jobs: Sequence[Future[Any]]) -> tuple[Batch, list[Any]]:
    return batch, [job.result() for job in jobs]
