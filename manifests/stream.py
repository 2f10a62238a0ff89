"""Stream: the contexts of a stage in their one global order, for any number of ranks. The trainer's side, without Ray.

Contexts are numbered by the manifest, a global batch is a run of `batch` of them, and a rank reads its slice of every
global batch. What a rank reads next is therefore a function of one number, and the state to resume from is that number,
the batch size and the manifest's digest: the next batch on three ranks is the one that eight would have seen.

Bytes are read straight from the shards and sidecars, one range a sample, and compared with their checksum.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.tables import get_table
from tarsia.schemas.errors import Corrupt, NotThere, UserError
from tarsia.schemas.identity import checksum, digest_of
from tarsia.schemas.manifest import Manifest, stage_path
from tarsia.schemas.sample import Sample


class Streamed(NamedTuple):
    """One sample of a context: its record, its media by member name, the questions that are heard (FLAC by turn)."""

    sample: Sample
    tokens: int
    media: dict[str, bytes]
    heard: dict[int, bytes]


class Context(NamedTuple):
    """One packed context: whole samples in order, under one system prompt (`text`, `image` or `video`)."""

    number: int
    prompt: str
    tokens: int
    samples: tuple[Streamed, ...]


class Batch(NamedTuple):
    """A rank's slice of one global batch, and the state that resumes after it."""

    contexts: tuple[Context, ...]
    state: dict[str, Any]


class Stream:
    """The contexts of a planned stage, for one rank of a world.

    >>> stream = Stream("s3://bucket/lake", "vita-1.5/2.2", batch=64, rank=3, world=8)
    >>> for batch in stream: ...
    """

    def __init__(self, lake: str, stage: str, *, batch: int = 1, rank: int = 0, world: int = 1) -> None:
        if batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"batch {batch}, rank {rank} of {world}: batch is at least 1, rank at least 0 and below world"
            )
        self.lake = lake
        self.manifest = load_manifest(lake, stage)
        self.batch, self.rank, self.world = batch, rank, world
        self.position = 0
        self._digest = manifest_digest(self.manifest)[:32]
        self._tables: tuple[pa.Table, pa.Table] | None = None

    def __len__(self) -> int:
        """Global batches from the start of the stage; the last may be short."""
        return (self.manifest.contexts + self.batch - 1) // self.batch

    def __iter__(self) -> Iterator[Batch]:
        yield from self.slices()

    def slices(self, worker: int = 0, workers: int = 1) -> Iterator[Batch]:
        """The batches from the state on; of several loader workers each takes every `workers`-th."""
        first = self.position // self.batch
        for number in range(first + worker, len(self), workers):
            begin = number * self.batch
            end = min(begin + self.batch, self.manifest.contexts)
            mine = range(
                begin + (end - begin) * self.rank // self.world,
                begin + (end - begin) * (self.rank + 1) // self.world,
            )
            batch = Batch(tuple(self.context(context) for context in mine), self._state(end))
            if workers == 1:
                self.position = end
            yield batch

    def context(self, number: int) -> Context:
        """One context by its number."""
        contexts, samples = self._loaded()
        if not 0 <= number < len(contexts):
            raise NotThere(f"{self.manifest.model}/{self.manifest.name} has contexts 0 to {len(contexts) - 1}")
        row = contexts.slice(number, 1).to_pylist()[0]
        parts = samples.slice(row["first"], row["samples"]).to_pylist()
        return Context(number, row["prompt"], row["tokens"], tuple(self._streamed(part) for part in parts))

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
        self.position = int(state["position"])

    def _state(self, position: int) -> dict[str, Any]:
        return {"manifest": self._digest, "batch": self.batch, "position": position}

    def _loaded(self) -> tuple[pa.Table, pa.Table]:
        if self._tables is None:
            store = Lake(self.lake).store
            contexts, samples = (get_table(store, self.manifest.tables[name]) for name in ("contexts", "samples"))
            self._tables = contexts, samples
        return self._tables

    def _streamed(self, row: dict[str, Any]) -> Streamed:
        media = dict(self._read(row, ""))
        sample = Sample.model_validate(orjson.loads(media.pop("json")))
        speech = dict(self._read(row, "speech_")) if row["spoken"] else {}
        return Streamed(sample, row["tokens"], media, {turn: speech[f"q{turn}.flac"] for turn in row["spoken"]})

    def _read(self, row: dict[str, Any], prefix: str) -> Iterator[tuple[str, bytes]]:
        stored = self.manifest.shards[row[f"{prefix}shard"]]
        offset, length = row[f"{prefix}offset"], row[f"{prefix}length"]
        data = Lake(self.lake).store.read_range(stored.path, offset, length)
        if checksum(data) != row[f"{prefix}checksum"]:
            raise Corrupt(f"{self.lake}/{stored.path}: sample {row['key']} at byte {offset} is not what was written")
        return members(data, row["key"], stored.path)


def load_manifest(lake: str, stage: str) -> Manifest:
    """The manifest of `model/stage`; `NotThere` tells which are planned."""
    store = Lake(lake).store
    model, _, name = stage.partition("/")
    try:
        return Manifest.model_validate(orjson.loads(store.read(f"{stage_path(model, name)}/manifest.json")))
    except NotThere:
        known = sorted(
            "/".join(entry.path.split("/")[1:3])
            for entry in store.list("stages")
            if entry.path.endswith("/manifest.json")
        )
        raise NotThere(f"{lake}: stage '{stage}' is not planned; planned: {', '.join(known) or 'none'}") from None


def manifest_digest(manifest: Manifest) -> str:
    """The identity of a manifest: what a training run's state refers to."""
    return digest_of(manifest.model_dump(mode="json"))
