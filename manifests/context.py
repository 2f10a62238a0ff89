"""Context: what a trainer is handed, and how stored bytes become it: from the shards, or from the packed tars.

Both ways lead to equal contexts. Shards and sidecars need one range a sample and one more for its speech; the tars of
`tarsia pack` need one a context. Every range is compared with its checksum, and what is not what was written becomes
`Missing`: the context keeps its number and its place and comes without the sample.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from tarsia.builders.shards import members
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, plain
from tarsia.manifests.places import Place
from tarsia.manifests.ranges import HAUL, SCATTERED, Data, Span
from tarsia.schemas.errors import Corrupt, NotThere
from tarsia.schemas.identity import checksum
from tarsia.schemas.manifest import PACKS, WRITING, Manifest, Packs, Writing, stage_path
from tarsia.schemas.recipe import Context as Settings
from tarsia.schemas.sample import AUDIO, Kind, Sample
from tarsia.schemas.shard import Stored

Again = Callable[[Span], Data]


class Record:
    """A sample's record, made out of its JSON when it is first asked for: that costs more than the reading."""

    __slots__ = ("_make", "_sample", "_told")

    def __init__(self, make: Callable[[dict[str, Any]], Sample], told: dict[str, Any]) -> None:
        self._make, self._told = make, told
        self._sample: Sample | None = None

    @property
    def sample(self) -> Sample:
        """The record; `Corrupt` if the JSON is not a sample's."""
        if self._sample is None:
            self._sample = self._make(self._told)
        return self._sample

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.sample == other.sample

    __hash__ = None  # type: ignore[assignment]


class Streamed(NamedTuple):
    """One sample of a context: its record, its media by member name, the questions that are heard (FLAC by turn)."""

    record: Record
    place: Place
    slot: int  # its place in the context as planned
    media: dict[str, bytes]
    heard: dict[int, bytes]
    words: Mapping[int, str]  # of what is heard, as the voice was given it

    @property
    def sample(self) -> Sample:
        """The record, made on first use: `Corrupt` if what was read is not a sample's."""
        return self.record.sample

    @property
    def tokens(self) -> int:
        """What it takes of the context."""
        return self.place.tokens

    @property
    def asked(self) -> frozenset[int]:
        """The questions that are heard instead of read. Of text-to-speech the answer is what is heard."""
        return frozenset(() if self.sample.kind is Kind.TTS else self.heard)

    @property
    def states(self) -> tuple[str, ...]:
        """How each question is met, as the state of its answer says it: `spoken`, `noise` or `written`."""
        questions = [turn.text for turn in self.sample.conversations if turn.speaker == "human"]
        if self.sample.kind is Kind.NOISE:
            return ("noise",) * len(questions)
        heard = (number in self.asked or AUDIO in text for number, text in enumerate(questions))
        return tuple("spoken" if one else "written" for one in heard)


@dataclass(frozen=True, slots=True)
class Missing:
    """A sample that could not be read: where its bytes lie, and what is wrong with them."""

    slot: int
    key: str
    path: str
    offset: int
    length: int
    tokens: int
    why: str


@dataclass(frozen=True)
class Written:
    """What `tarsia pack` wrote of a context beside its samples, for those who have no tokenizer."""

    settings: Settings  # under which it was written
    writing: Writing
    npy: bytes
    json: bytes

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """The token ids of the context as planned, the system prompt included."""
        return np.frombuffer(self.npy, "<i4", offset=10 + int.from_bytes(self.npy[8:10], "little"))  # NPY 1.0

    @cached_property
    def spans(self) -> list[dict[str, Any]]:
        """Where everything stands in them, by slot."""
        found: list[dict[str, Any]] = orjson.loads(self.json)["samples"]
        return found


@dataclass(frozen=True, slots=True)
class Context:
    """One packed context: whole samples in order, under one system prompt (`text`, `image` or `video`)."""

    number: int
    prompt: str
    tokens: int  # of the prompt and of the samples that are here
    samples: tuple[Streamed, ...]
    missing: tuple[Missing, ...] = ()
    written: Written | None = field(default=None, compare=False, repr=False)


class Layout(Protocol):
    """Where contexts lie, and how they are made of what was read there."""

    haul: int  # bytes that are best asked for together

    def spans(self, number: int, places: Sequence[Place]) -> list[Span]:
        """What must be read of a context."""

    def samples(
        self, number: int, places: Sequence[Place], spans: Sequence[Span], parts: Sequence[Data], again: Again
    ) -> tuple[list[Streamed | Missing], Written | None]:
        """Its samples, of the bytes of those spans, and what was written of them, where something was.

        `again` reads a span once more that is not what it should be.
        """


class InShards:
    """Contexts from the shards and sidecars that the manifest points into; `originals`: with the files of videos."""

    haul = SCATTERED

    def __init__(self, store: Store, manifest: Manifest, *, originals: bool = False) -> None:
        self._url, self._shards, self._originals = store.url, manifest.shards, originals

    def spans(self, number: int, places: Sequence[Place]) -> list[Span]:
        """A range a sample, followed by that of its speech."""
        spans = []
        for place in places:
            spans.append(Span(self._shards[place.shard], place.offset, place.length))
            if place.spoken:
                spans.append(Span(self._shards[place.speech_shard], place.speech_offset, place.speech_length))
        return spans

    def samples(
        self, number: int, places: Sequence[Place], spans: Sequence[Span], parts: Sequence[Data], again: Again
    ) -> tuple[list[Streamed | Missing], Written | None]:
        """Its samples; one whose bytes or whose speech are broken is missing."""
        found: list[Streamed | Missing] = []
        read = zip(spans, parts, strict=True)
        for slot, place in enumerate(places):
            mine, speech = next(read), next(read) if place.spoken else None
            try:
                found.append(self._sample(slot, place, mine, speech, again))
            except _Bad as bad:
                found.append(bad.missing(self._url, slot, place))
        return found, None

    def _sample(
        self, slot: int, place: Place, lying: tuple[Span, Data], speech: tuple[Span, Data] | None, again: Again
    ) -> Streamed:
        """A sample out of its range of a shard, and of what is heard of it out of that of a sidecar."""
        key = place.key.decode()
        heard: dict[int, bytes] = {}
        words: dict[int, str] = {}
        media = _members(key, f"sample {key}", place.checksum, *lying, again)
        try:
            told = orjson.loads(media.pop("json"))
            for video in told["videos"]:
                if video["original"] and not self._originals:
                    del media[video["original"]["member"]]  # nobody trains on the file that the frames are of
            if speech:
                said = _members(key, f"sample {key}", place.speech_checksum, *speech, again)
                heard = {turn: said[f"q{turn}.flac"] for turn in place.spoken}
                clips = orjson.loads(said["json"])["clips"]
                words = {clip["turn"]: clip["spoken"] for clip in clips if clip["turn"] in heard}
        except KeyError as missing:
            raise _Bad(lying[0], f"sample {key} has no member {missing}") from None
        except orjson.JSONDecodeError as error:
            raise _Bad(lying[0], f"sample {key}: its JSON is not a sample's: {error}") from None
        return Streamed(Record(record, told), place, slot, media, heard, words)


class InPacks:
    """Contexts from the tars of `tarsia pack`, in training order: one range each."""

    haul = HAUL

    def __init__(self, store: Store, packs: Packs, settings: Settings) -> None:
        self._store, self._shards, self._settings = store, packs.shards, settings
        self._writing = packs.writing if packs.writing and packs.writing.version == WRITING else None
        self._firsts = [shard.first for shard in packs.shards]
        self._places: OrderedDict[int, list[list[int]]] = OrderedDict()

    def spans(self, number: int, places: Sequence[Place]) -> list[Span]:
        """The range of the context."""
        stored, (offset, length, _) = self._lies(number)
        return [Span(stored, offset, length)]

    def samples(
        self, number: int, places: Sequence[Place], spans: Sequence[Span], parts: Sequence[Data], again: Again
    ) -> tuple[list[Streamed | Missing], Written | None]:
        """Its samples; where the range is broken, all of them are missing."""
        span, (_, _, expected) = spans[0], self._lies(number)[1]
        try:
            found = _members(f"{number:08d}", f"context {number}", expected, span, parts[0], again)
            told = orjson.loads(found.pop("json"))["samples"]
            if [one["key"] for one in told] != [place.key.decode() for place in places]:
                raise _Bad(span, f"context {number} holds other samples than the manifest says")
        except _Bad as bad:
            missing = [bad.missing(self._store.url, slot, place) for slot, place in enumerate(places)]
            return list(missing), self._written(b"", b"")
        written = self._written(found.pop("ids.npy", b""), found.pop("spans.json", b""))
        return list(self._samples(places, told, found)), written

    def _samples(self, places: Sequence[Place], told: list[Any], found: dict[str, bytes]) -> Iterator[Streamed]:
        media: list[dict[str, bytes]] = [{} for _ in places]
        for name, data in found.items():
            media[int(name[:3])][name[4:]] = data
        for slot, (place, one) in enumerate(zip(places, told, strict=True)):
            heard = {turn: media[slot].pop(f"q{turn}.flac") for turn in place.spoken} if place.spoken else {}
            words = {int(turn): text for turn, text in one["said"].items()} if one["said"] else {}
            yield Streamed(Record(_as_stored, one), place, slot, media[slot], heard, words)

    def _written(self, npy: bytes, json: bytes) -> Written | None:
        return Written(self._settings, self._writing, npy, json) if self._writing else None

    def _lies(self, number: int) -> tuple[Stored, tuple[int, int, int]]:
        """The tar of a context, where in it that lies (offset, length), and its checksum."""
        which = bisect_right(self._firsts, number) - 1
        shard = self._shards[which]
        if which not in self._places:
            table = get_table(self._store, shard.objects[1], ("offset", "length", "checksum"), verify=True)
            self._places[which] = [plain(table[name].combine_chunks()).tolist() for name in table.column_names]
            if len(self._places) > 64:  # a window of contexts may span so many
                self._places.popitem(last=False)
        row = number - shard.first
        offsets, lengths, checksums = self._places[which]
        return shard.objects[0], (offsets[row], lengths[row], checksums[row])


def packs(store: Store, manifest: Manifest, identity: str) -> Packs | None:
    """The packed shards of a stage, if they were made for this very manifest; else none.

    Raises `Corrupt` where another version of Tarsia packed them.
    """
    path = f"{stage_path(manifest.model, manifest.name)}/packed.json"
    try:
        listing = Packs.model_validate_json(store.read(path))
    except NotThere:
        return None
    except ValidationError as error:
        raise Corrupt(f"{store.url}/{path}: cannot be read: {error}; delete it and pack the stage again") from error
    if listing.manifest != identity or not listing.shards:
        return None
    if listing.format != PACKS:
        next_ = f"tarsia pack {store.url} --stage {manifest.model}/{manifest.name}"
        raise Corrupt(f"{store.url}/{path} has format {listing.format}, not {PACKS}: pack the stage again ({next_})")
    return listing


class _Bad(Exception):
    def __init__(self, span: Span, why: str) -> None:
        self.span, self.why = span, why

    def missing(self, url: str, slot: int, place: Place) -> Missing:
        stored, offset, length = self.span
        why = f"{url}/{stored.path}: {self.why}"
        return Missing(slot, place.key.decode(), stored.path, offset, length, place.tokens, why)


def _members(key: str, what: str, expected: int, span: Span, data: Data, again: Again) -> dict[str, bytes]:
    """The members of a range, once it is what was written."""
    if checksum(data) != expected:
        data = again(span)
        if checksum(data) != expected:
            raise _Bad(span, f"{what}, {span.length} bytes from byte {span.offset}, is not what was written")
    try:
        return members(data, key, span.stored.path)
    except Corrupt as error:
        raise _Bad(span, str(error)) from None


def record(told: dict[str, Any]) -> Sample:
    """A sample's record out of its JSON; `Corrupt` if that is another's."""
    try:
        return Sample.model_validate(told)
    except ValidationError as error:
        raise Corrupt(f"sample {told.get('key')}: its JSON is not a sample's: {error}") from None


def _as_stored(told: dict[str, Any]) -> Sample:
    """A sample's record out of the JSON of a packed context: what is heard is text again."""
    turns, spoken, question = [], {one["turn"]: one["text"] for one in told["heard"]}, -1
    for turn in told["conversations"]:
        question += turn["from"] == "human"
        heard = turn["from"] == "human" and question in spoken
        turns.append({"from": turn["from"], "value": spoken[question] if heard else turn["value"]})
    kept = {name: told[name] for name in ("key", "corpus", "id", "kind", "language", "boxes", "speaker")}
    return record({**kept, **told["facts"], "conversations": turns})
