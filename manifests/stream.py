"""Stream: the contexts of a stage in their one global order, for any number of ranks. The trainer's side, without Ray.

Contexts are numbered by the manifest, a global batch is a run of `batch` of them, and a rank reads its slice of every
global batch. What a rank reads next is therefore a function of one number, and the state to resume from is that number,
the batch size and the manifest's digest: the next batch on three ranks is the one that eight would have seen.

Bytes are read straight from the shards and sidecars, one range a sample, and compared with their checksum.
"""

import dataclasses
import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Corrupt, NotThere, StorageFault, UserError
from tarsia.schemas.identity import checksum, digest, digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.manifest import Manifest, stage_path
from tarsia.schemas.sample import Kind, Sample
from tarsia.schemas.shard import Stored


@dataclass(frozen=True, slots=True)
class Streamed:
    """One sample of a context: its record, its media by member name, the questions that are heard (FLAC by turn)."""

    sample: Sample
    tokens: int
    media: dict[str, bytes]
    heard: dict[int, bytes]
    words: Mapping[int, str] = dataclasses.field(default_factory=dict)  # of what is heard, as the voice was given it

    @property
    def asked(self) -> frozenset[int]:
        """The questions that are heard instead of read. Of text-to-speech the answer is what is heard."""
        return frozenset(() if self.sample.kind is Kind.TTS else self.heard)


@dataclass(frozen=True, slots=True)
class Context:
    """One packed context: whole samples in order, under one system prompt (`text`, `image` or `video`)."""

    number: int
    prompt: str
    tokens: int
    samples: tuple[Streamed, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's slice of one global batch, and the state that resumes after it."""

    contexts: tuple[Context, ...]
    state: dict[str, Any]


class Stream:
    """The contexts of a planned stage, for one rank of a world.

    >>> stream = Stream("s3://bucket/lake", "vita-1.5/2.2", batch=64, rank=3, world=8)
    >>> for batch in stream: ...

    Every iteration begins where the state says that was loaded last, or else at the first context. A stream may be
    pickled, and used after a fork.
    """

    def __init__(self, lake: str, stage: str, *, batch: int = 1, rank: int = 0, world: int = 1) -> None:
        if batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"batch {batch}, rank {rank} of {world}: batch is at least 1, rank at least 0 and below world"
            )
        self.lake = lake
        self.manifest = load_manifest(lake, stage)
        self.batch, self.rank, self.world = batch, rank, world
        self.first = self.position = 0
        self._digest = manifest_digest(self.manifest)[:32]
        self._open()

    def __len__(self) -> int:
        """Global batches from the start of the stage; the last may be short."""
        return (self.manifest.contexts + self.batch - 1) // self.batch

    def __iter__(self) -> Iterator[Batch]:
        yield from self.slices()

    def slices(self, worker: int = 0, workers: int = 1) -> Iterator[Batch]:
        """The rank's slice of every global batch; of several loader workers each takes every `workers`-th."""
        for begin in range(self.first, self.manifest.contexts, self.batch)[worker::workers]:
            end = min(begin + self.batch, self.manifest.contexts)
            mine = range(
                begin + (end - begin) * self.rank // self.world,
                begin + (end - begin) * (self.rank + 1) // self.world,
            )
            batch = Batch(tuple(self.context(number) for number in mine), self._state(end))
            if workers == 1:
                self.position = end
            yield batch

    def context(self, number: int) -> Context:
        """One context by its number."""
        if not 0 <= number < self.manifest.contexts:
            raise NotThere(
                f"{self.manifest.model}/{self.manifest.name} has {self.manifest.contexts} contexts, none is {number}"
            )
        prompt, tokens, first, samples = self._contexts.row(number)
        places = [self._samples.row(row) for row in range(first, first + samples)]
        return Context(number, prompt, tokens, tuple(self._streamed(_Place(*place)) for place in places))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: resuming from it gives the next global batch, on any number of ranks."""
        return self._state(self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a state says. Refuses the state of another manifest or batch size."""
        mine = self._state(0)
        for field in ("manifest", "batch"):
            if state.get(field) != mine[field]:
                raise UserError(
                    f"this state was saved with {field} {state.get(field)}, the stream has {mine[field]}: "
                    "resuming would train on other contexts than it says"
                )
        position = state.get("position")
        if not isinstance(position, int) or not 0 <= position <= self.manifest.contexts:
            raise UserError(f"this state's position is {position}; the stage has {self.manifest.contexts} contexts")
        self.first = self.position = position

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_contexts", "_samples", "_tars")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        store, tables = Lake(self.lake).store, self.manifest.tables
        self._contexts = _Rows(store, tables["contexts"], ("prompt", "tokens", "first", "samples"))
        self._samples = _Rows(store, tables["samples"], _Place._fields)
        self._tars = _Tars(store)

    def _state(self, position: int) -> dict[str, Any]:
        return {"manifest": self._digest, "batch": self.batch, "position": position}

    def _streamed(self, place: "_Place") -> Streamed:
        media = self._members(place, place.shard, place.offset, place.length, place.checksum)
        said = {}
        if place.spoken:
            lying = (place.speech_shard, place.speech_offset, place.speech_length, place.speech_checksum)
            said = self._members(place, *lying)
        try:
            sample = Sample.model_validate_json(media.pop("json"))
            heard = {turn: said[f"q{turn}.flac"] for turn in place.spoken}
            clips = orjson.loads(said["json"])["clips"] if said else []
        except KeyError as missing:
            raise Corrupt(f"{self.lake}: sample {place.key} has no member {missing}") from None
        words = {clip["turn"]: clip["spoken"] for clip in clips if clip["turn"] in heard}
        return Streamed(sample, place.tokens, media, heard, words)

    def _members(self, place: "_Place", shard: int, offset: int, length: int, expected: int) -> dict[str, bytes]:
        path = self.manifest.shards[shard].path
        data = self._tars.read(path, offset, length)
        if checksum(data) != expected:
            raise Corrupt(
                f"{self.lake}/{path}: sample {place.key}, {length} bytes from byte {offset}, is not what was written"
            )
        return dict(members(data, place.key, path))


class _Place(NamedTuple):
    """What reading a sample needs: a row of SAMPLES."""

    key: str
    tokens: int
    spoken: list[int]
    shard: int
    offset: int
    length: int
    checksum: int
    speech_shard: int
    speech_offset: int
    speech_length: int
    speech_checksum: int


class _Rows:
    """The rows of a stored table by their number, for one who asks for neighbours: only what holds them is read.

    A row group is kept as Arrow holds it and turned into Python values a block at a time, so that any row of a table
    of millions is there in milliseconds, and the next thousand at once.
    """

    BLOCK = 1024  # rows
    SMALL = 1 << 20  # bytes of a table that is read, and compared with its digest, as a whole

    def __init__(self, store: Store, stored: Stored, columns: Sequence[str]) -> None:
        self._store, self._stored, self._columns = store, stored, columns
        self._first, self._group = 0, pa.table({})
        self._blocks: OrderedDict[int, list[tuple[Any, ...]]] = OrderedDict()

    def row(self, number: int) -> tuple[Any, ...]:
        """One row, as a tuple of its columns."""
        block, inside = divmod(number, self.BLOCK)
        if block not in self._blocks:
            self._blocks[block] = self._read(block * self.BLOCK)
            if len(self._blocks) > 4:
                self._blocks.popitem(last=False)
        try:
            return self._blocks[block][inside]
        except IndexError:
            raise Corrupt(f"{self._store.url}/{self._stored.path} has no row {number}") from None

    def _read(self, first: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        while len(rows) < self.BLOCK and self._load(first + len(rows)):
            begin = first + len(rows) - self._first
            part = self._group.slice(begin, self.BLOCK - len(rows))
            rows += zip(*(column.to_pylist() for column in part.columns), strict=True)
        return rows

    def _load(self, number: int) -> bool:
        """Makes the row group that holds a row the one in memory; false beyond the last."""
        if self._first <= number < self._first + len(self._group):
            return True
        try:
            with self._opened() as file, pq.ParquetFile(file, page_checksum_verification=True) as table:
                sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
                ends = np.cumsum(sizes)
                group = int(np.searchsorted(ends, number, side="right"))
                if group == len(ends):
                    return False
                self._group = table.read_row_group(group, columns=list(self._columns)).select(self._columns)
                self._first = int(ends[group]) - len(self._group)
        except pa.ArrowException as error:
            raise Corrupt(f"{self._store.url}/{self._stored.path}: cannot be read: {error}") from error
        return True

    def _opened(self) -> BinaryIO:
        if self._stored.bytes >= self.SMALL:
            return self._store.open(self._stored.path)
        data = self._store.read(self._stored.path)
        if digest(data) != self._stored.digest:
            raise Corrupt(f"{self._store.url}/{self._stored.path}: not the bytes that were written (BLAKE3 differs)")
        return io.BytesIO(data)


class _Tars:
    """Ranges of tars. On a local folder the files last used stay open; reads share no position, so forks may too."""

    MOST = 128  # open files: a window of a stage spans a shard or two of every corpus

    def __init__(self, store: Store) -> None:
        self._store = store
        self._local = "://" not in store.url
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()

    def read(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        if not self._local:
            return self._store.read_range(path, offset, length)
        if path in self._files:
            self._files.move_to_end(path)
        else:
            self._files[path] = self._store.open(path)
            if len(self._files) > self.MOST:
                self._files.popitem(last=False)[1].close()
        try:
            return os.pread(self._files[path].fileno(), length, offset)
        except OSError as error:
            raise StorageFault(f"cannot read '{path}' in {self._store.url}: {error.strerror}") from error

    def __del__(self) -> None:
        for file in self._files.values():
            file.close()


def load_manifest(lake: str, stage: str) -> Manifest:
    """The manifest of `model/stage`; `NotThere` tells which are planned, `Corrupt` that it is no manifest."""
    store = Lake(lake).store
    model, _, name = stage.partition("/")
    path = f"{stage_path(model, name)}/manifest.json"
    try:
        manifest = Manifest.model_validate(orjson.loads(store.read(path)))
    except NotThere:
        known = sorted(
            "/".join(entry.path.split("/")[1:3])
            for entry in store.list("stages")
            if entry.path.endswith("/manifest.json")
        )
        raise NotThere(f"{lake}: stage '{stage}' is not planned; planned: {', '.join(known) or 'none'}") from None
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise Corrupt(f"{lake}/{path} cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise Corrupt(f"{lake}/{path} has format {manifest.format}, not {FORMAT}")
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """The identity of a manifest: what a training run's state refers to."""
    return digest_of(manifest.model_dump(mode="json"))
