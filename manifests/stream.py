"""Stream: the contexts of a stage in their one global order, for any number of ranks. The trainer's side, without Ray.

Contexts are numbered by the manifest, an epoch puts them into an order that follows from the manifest alone, a global
batch is a run of `batch` of them, and a rank reads its slice of every global batch. What a rank reads next is therefore
a function of two numbers, and the state to resume from is these (epoch and position), the batch size and the manifest's
digest: the next batch on three ranks is the one that eight would have seen.

Bytes come from the tars of `tarsia pack` where these were made for this manifest, else straight from shards and
sidecars; local or from a bucket, with a cache on disk or without: the contexts and the state are the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from tarsia.builders.lake import Lake
from tarsia.manifests.cache import Cache
from tarsia.manifests.context import Context, InPacks, InShards, Layout, Missing, Streamed, packs
from tarsia.manifests.order import Order, Step, share, steps
from tarsia.manifests.places import Group, Placed, Places
from tarsia.manifests.ranges import PREFETCH, Data, Ranges, Span
from tarsia.schemas.errors import Corrupt, NotThere, UserError
from tarsia.schemas.identity import digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.manifest import Manifest, stage_path

__all__ = ["Batch", "Cache", "Context", "Handed", "Missing", "Stream", "Streamed", "load_manifest", "manifest_digest"]


class Handed(NamedTuple):
    """What an account wants to know of a batch: a few numbers, which stay with it when it becomes tensors."""

    step: Step
    contexts: int
    figures: dict[Group, list[int]]  # samples, questions, tokens and microseconds of audio
    missing: tuple[tuple[int, Missing], ...]  # by the number of their context


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's slice of one global batch, which of the stage that was, and the state that resumes after it."""

    contexts: tuple[Context, ...]
    state: dict[str, Any]
    step: Step

    @property
    def handed(self) -> Handed:
        """What is in it, counted."""
        figures: dict[Group, list[int]] = {}
        for context in self.contexts:
            for _, place, *_ in context.samples:
                row = figures.get(place.group)
                if row is None:
                    row = figures[place.group] = [0, 0, 0, 0]
                row[0] += 1
                row[1] += place.questions
                row[2] += place.tokens
                row[3] += place.microseconds
        missing = tuple((context.number, lost) for context in self.contexts for lost in context.missing)
        return Handed(self.step, len(self.contexts), figures, missing)


class _Asked(NamedTuple):
    number: int
    placed: Placed
    spans: list[Span]


class Stream:
    """The contexts of a planned stage, for one rank of a world.

    >>> stream = Stream("s3://bucket/lake", "vita-1.5/2.2", batch=64, rank=3, world=8, epochs=2)
    >>> for batch in stream: ...

    batch     contexts of a global batch
    epochs    how often the stage is gone through; each but the first in an order of its own
    prefetch  bytes that are read from a bucket, and not yet asked for, at most
    cache     where blocks of a bucket's objects are kept on a local disk
    bad       samples that may be missing, in this process, before reading fails; a context comes without them
    packed    false: read the shards even where packed tars stand

    Every iteration begins where the state says that was loaded last, or else at the first context. A stream may be
    pickled, and used after a fork; one on a bucket only pickled, since connections do not survive a fork.
    """

    def __init__(
        self,
        lake: str,
        stage: str,
        *,
        batch: int = 1,
        rank: int = 0,
        world: int = 1,
        epochs: int = 1,
        prefetch: int = PREFETCH,
        cache: Cache | None = None,
        bad: int = 0,
        packed: bool = True,
    ) -> None:
        if batch < 1 or not 0 <= rank < world:
            raise UserError(
                f"batch {batch}, rank {rank} of {world}: batch is at least 1, rank at least 0 and below world"
            )
        if epochs < 1 or prefetch < 1 or bad < 0:
            raise UserError(f"epochs {epochs}, prefetch {prefetch}, bad {bad}: at least 1, 1 and 0")
        self.lake, self.stage = lake, stage
        self.manifest = load_manifest(lake, stage)
        self.batch, self.rank, self.world, self.epochs = batch, rank, world, epochs
        self.prefetch, self.bad, self.missing = prefetch, bad, 0
        self._cache, self._packed = cache, packed
        self._digest = manifest_digest(self.manifest)
        repaired = self.manifest.repaired
        self._accepted = {digest[:32] for digest in (self._digest, *(repaired.parents if repaired else ()))}
        self._first = self._next = (0, 0)  # epoch and position
        self._open()

    def __len__(self) -> int:
        """Global batches from the start of the stage to the end of its last epoch; the last of each may be short."""
        return self.epochs * ((self.manifest.contexts + self.batch - 1) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        yield from self.slices()

    def slices(self, worker: int = 0, workers: int = 1) -> Iterator[Batch]:
        """The rank's slice of every global batch; of several loader workers each takes every `workers`-th."""
        mine = islice(self._steps(self._first), worker, None, workers)
        due, ahead = tee((step, share(step, self.rank, self.world)) for step in mine)
        order = self._order
        numbers = (order.context(step.epoch, position) for step, part in ahead for position in part)
        contexts = self._read(numbers)
        for step, part in due:
            read = tuple(islice(contexts, len(part)))
            after = self._after(step)
            if workers == 1:
                self._next = after
            yield Batch(read, self._state(*after), step)

    def context(self, number: int) -> Context:
        """One context by its number in the manifest."""
        if not 0 <= number < self.manifest.contexts:
            raise NotThere(
                f"{self.manifest.model}/{self.manifest.name} has {self.manifest.contexts} contexts, none is {number}"
            )
        asked = self._ask(number)
        return self._made(asked, [self._ranges.read(span) for span in asked.spans])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: resuming from it gives the next global batch, on any number of ranks."""
        return self._state(*self._next)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a state says. Refuses the state of another batch size or manifest, but for those repaired."""
        mine = self._state(0, 0)
        if state.get("manifest") in self._accepted:
            state = {**state, "manifest": mine["manifest"]}
        for field in ("manifest", "batch"):
            if state.get(field) != mine[field]:
                raise UserError(
                    f"this state was saved with {field} {state.get(field)}, the stream has {mine[field]}: "
                    "resuming would train on other contexts than it says"
                )
        epoch, position, contexts = state.get("epoch"), state.get("position"), self.manifest.contexts
        if not isinstance(position, int) or not 0 <= position <= contexts:
            raise UserError(f"this state's position is {position}; the stage has {contexts} contexts")
        if not isinstance(epoch, int) or not 0 <= epoch <= self.epochs:
            raise UserError(f"this state's epoch is {epoch}; the stream has {self.epochs}, numbered from 0")
        self._first = self._next = (epoch, position)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OPENED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        store = Lake(self.lake).store
        found = packs(store, self.manifest, self._digest) if self._packed else None
        settings = self.manifest.context
        self._layout: Layout = InPacks(store, found, settings) if found else InShards(store, self.manifest)
        self._places = Places(store, self.manifest)
        self._ranges = Ranges(store, self._cache)
        self._order = order_of(self.manifest)

    def _steps(self, first: tuple[int, int]) -> Iterator[Step]:
        return steps(self.manifest.contexts, self.batch, self.epochs, epoch=first[0], position=first[1])

    def _after(self, step: Step) -> tuple[int, int]:
        """Epoch and position after a step; the end of an epoch is the beginning of the next."""
        return (step.epoch, step.end) if step.end < self.manifest.contexts else (step.epoch + 1, 0)

    def _state(self, epoch: int, position: int) -> dict[str, Any]:
        return {"manifest": self._digest[:32], "batch": self.batch, "epoch": epoch, "position": position}

    def _read(self, numbers: Iterable[int]) -> Iterator[Context]:
        wanted = ((asked, asked.spans) for asked in map(self._ask, numbers))
        for asked, parts in self._ranges.ahead(wanted, self.prefetch, self._layout.haul):
            yield self._made(asked, parts)

    def _ask(self, number: int) -> _Asked:
        placed = self._places.context(number)
        return _Asked(number, placed, self._layout.spans(number, placed.samples))

    def _made(self, asked: _Asked, parts: list[Data]) -> Context:
        number, (prompt, tokens, places), spans = asked
        found, written = self._layout.samples(number, places, spans, parts, self._ranges.again)
        samples = tuple([one for one in found if isinstance(one, Streamed)])
        if len(samples) == len(found):
            return Context(number, prompt, tokens, samples, written=written)
        missing = tuple(one for one in found if isinstance(one, Missing))
        self.missing += len(missing)
        if self.missing > self.bad:
            allowed = f"; {self.missing} samples missing, {self.bad} allowed" if self.bad else ""
            raise Corrupt(f"{missing[0].why}{allowed}")
        return Context(number, prompt, tokens - sum(one.tokens for one in missing), samples, missing, written)


_OPENED = ("_layout", "_places", "_ranges", "_order")


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
        raise Corrupt(f"{lake}/{path} has format {manifest.format}, not {FORMAT}: plan in a lake of that format")
    return manifest


def order_of(manifest: Manifest) -> Order:
    """The order of a stage. A repaired one keeps that of the plan from scratch, what was added since comes last."""
    repaired = manifest.repaired
    if repaired is None:
        return Order(manifest_digest(manifest), manifest.contexts)
    return Order(repaired.parents[0], repaired.first, more=manifest.contexts - repaired.first)


def manifest_digest(manifest: Manifest) -> str:
    """The identity of a manifest: what a training run's state refers to."""
    return digest_of(manifest.model_dump(mode="json"))
