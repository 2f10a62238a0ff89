"""The deep audit of packed tars: every context there once, of the very bytes of its samples, its ids written anew.

What a packed context must hold is taken from the manifest's rows and from the shards and sidecars that these point
into, never from the pack itself: media are compared byte for byte, conversations turn by turn, and token ids with those
of a rendering of this file's own, which shares the pieces of a turn with the planner and nothing with the trainer.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import orjson
from pydantic import ValidationError

from tarsia.builders.audio import resampled_length
from tarsia.builders.chat import (
    Control,
    Medium,
    as_met,
    heard_text,
    ids_of,
    pieces,
    prompt_of,
    restore,
    state_after,
    system,
)
from tarsia.builders.images import read_image
from tarsia.builders.shards import members
from tarsia.builders.speech import said
from tarsia.builders.storage import Store
from tarsia.builders.tables import read_parquet
from tarsia.builders.tokens import TILE_TOKENS, audio_tokens, frame_positions, tokenizer
from tarsia.manifests.findings import Book
from tarsia.manifests.reread import Claim, sound_length, tiles_of, whole
from tarsia.schemas.errors import Corrupt, NotThere
from tarsia.schemas.identity import checksum, digest_of
from tarsia.schemas.manifest import PACKS, WRITING, Manifest, Packed, Packs, Writing, stage_path
from tarsia.schemas.recipe import Context
from tarsia.schemas.sample import AUDIO, PLACEHOLDER, Kind, Sample

STATES = ("written", "spoken", "noise")


class Met(NamedTuple):
    """A sample as its shard and its sidecar hold it."""

    sample: Sample
    media: dict[str, bytes]
    heard: dict[int, bytes]
    words: dict[int, str]  # of what is heard, as its voice was given it

    @property
    def made(self) -> bool:
        """Whether what is heard is the answer, that had no sound of its own, and no question."""
        return self.sample.kind is Kind.TTS and bool(self.heard)

    @property
    def asked(self) -> dict[int, bytes]:
        """The questions that are heard."""
        return {} if self.made else self.heard


def reread_packs(store: Store, claim: Claim, book: Book) -> None:
    """The packed tars of a stage, where they were made for this manifest: every context in its place and whole."""
    manifest = claim.manifest
    path = f"{stage_path(manifest.model, manifest.name)}/packed.json"
    try:
        packs = Packs.model_validate_json(store.read(path))
    except NotThere:
        return
    except ValidationError as error:
        raise Corrupt(f"{store.url}/{path}: cannot be read: {error}") from error
    if packs.manifest != digest_of(manifest.model_dump(mode="json")):
        return  # of an earlier plan, and says so
    book.equal(claim.where, "format of the packed tars", packs.format, PACKS)
    if packs.format != PACKS:
        return
    _check_writing(claim, packs.writing, book)
    first = 0
    for packed in packs.shards:
        book.equal(packed.objects[0].path, "first context", packed.first, first)
        first += packed.contexts
        with book.reading(packed.objects[0].path):
            _reread_shard(store, packed, claim, packs.writing, book)
    book.equal(claim.where, "packed contexts", manifest.contexts, first)


def _check_writing(claim: Claim, writing: Writing | None, book: Book) -> None:
    settings = claim.manifest.context
    book.equal(claim.where, "packed with ids", settings.audio == "vita", writing is not None)
    if writing is None:
        return
    words = tokenizer(settings.tokenizer, settings.words)
    book.equal(claim.where, "vocabulary of the packed ids", claim.manifest.vocabulary, writing.vocabulary)
    book.equal(claim.where, "version of the packed ids", writing.version, WRITING)
    book.equal(claim.where, "filler of the packed ids", writing.filler, words.control("<|endoftext|>")[0])
    if settings.prompt == "context":
        prompts = {name: [token for piece in system(name) for token in ids_of(words, piece)]
                   for name in claim.manifest.prompts}  # fmt: skip
        book.equal(claim.where, "ids of the prompts", {name: [*ids] for name, ids in writing.prompts.items()}, prompts)


def _reread_shard(store: Store, packed: Packed, claim: Claim, writing: Writing | None, book: Book) -> None:
    data, table = (whole(store, stored, book) for stored in packed.objects)
    path, settings = packed.objects[0].path, claim.manifest.context
    places = read_parquet(io.BytesIO(table), packed.objects[1].path).to_pylist()
    numbers = list(range(packed.first, packed.first + packed.contexts))
    book.equal(path, "contexts", numbers, [place["context"] for place in places])
    contexts, end = claim.samples["context"].to_numpy(), 0
    for place in places:
        where, number = f"{path} context {place['context']}", place["context"]
        with book.reading(where):
            book.equal(where, "begins where the one before ends", place["offset"], end)
            end = place["offset"] + place["length"]
            span = data[place["offset"] : end]
            book.equal(where, "XXH3", place["checksum"], checksum(span))
            begin, after = np.searchsorted(contexts, [number, number + 1])
            rows = claim.samples.slice(begin, after - begin).to_pylist()
            met = [_met(store, claim.manifest, row) for row in rows]
            found = members(span, f"{number:08d}", path)
            npy, spans = (found.pop(name, None) for name in ("ids.npy", "spans.json"))
            told = orjson.loads(found.pop("json"))
            _check_samples(where, told["samples"], rows, met, found, book)
            if writing and npy is not None and spans is not None:
                line = _Line(settings, told["prompt"], met, writing.filler)
                book.equal(where, "tokens", place["tokens"], len(line.ids))
                kept = np.load(io.BytesIO(npy), allow_pickle=False).tolist()
                book.check(where, kept == line.ids, f"ids: {_first_difference(kept, line.ids)}")
                for slot, (mine, one) in enumerate(zip(line.parts, orjson.loads(spans)["samples"], strict=True)):
                    for name, value in mine.items():
                        book.equal(f"{where} slot {slot}", name, one[name], value)
            else:
                book.equal(where, "has ids", writing is not None, npy is not None and spans is not None)
    book.equal(path, "bytes after the last context", 1024, len(data) - end)


def _first_difference(claimed: Sequence[int], found: Sequence[int]) -> str:
    pairs = enumerate(zip_longest(claimed, found))
    return next((f"number {at}: recorded {one}, found {other}" for at, (one, other) in pairs if one != other), "equal")


def _met(store: Store, manifest: Manifest, row: Mapping[str, Any]) -> Met:
    """What the manifest's row points to."""

    def read(kind: str) -> dict[str, bytes]:
        stored = manifest.shards[row[f"{kind}shard"]]
        span = store.read_range(stored.path, row[f"{kind}offset"], row[f"{kind}length"])
        return members(span, row["key"], stored.path)

    media = read("")
    sample = Sample.model_validate_json(media.pop("json"))
    for video in sample.videos:
        if video.original:
            del media[video.original.member]
    said = read("speech_") if row["spoken"] else {}
    words = {clip["turn"]: clip["spoken"] for clip in orjson.loads(said["json"])["clips"]} if said else {}
    heard = {turn: said[f"q{turn}.flac"] for turn in row["spoken"]}
    return Met(sample, media, heard, {turn: words[turn] for turn in heard})


def _check_samples(
    where: str,
    samples: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    met: Sequence[Met],
    found: Mapping[str, bytes],
    book: Book,
) -> None:
    """The JSON and the media of a context are those of its samples."""
    book.equal(where, "samples", [row["key"] for row in rows], [one["key"] for one in samples])
    book.equal(where, "tokens", [row["tokens"] for row in rows], [one["tokens"] for one in samples])
    due = dict[str, bytes]()
    for slot, one in enumerate(met):
        due |= {f"{slot:03d}.{name}": data for name, data in one.media.items()}
        due |= {f"{slot:03d}.q{turn}.flac": data for turn, data in one.heard.items()}
    book.equal(where, "members", sorted(due), sorted(found))
    changed = [name for name in due if due[name] != found.get(name)]
    book.equal(where, "members that are not the sample's", [], changed)
    for slot, (told, one) in enumerate(zip(samples, met, strict=True)):
        place = f"{where} slot {slot}"
        fields = one.sample.model_dump(mode="json", by_alias=True)
        same = ("key", "corpus", "id", "kind", "language", "boxes", "speaker")
        book.equal(place, "record", {name: told[name] for name in same}, {name: fields[name] for name in same})
        book.equal(place, "facts", told["facts"], {name: fields[name] for name in ("images", "audios", "videos")})
        question, turns = -1, []
        for turn in one.sample.conversations:
            question += turn.speaker == "human"
            heard = turn.speaker == "human" and question in one.asked
            turns.append({"from": turn.speaker, "value": heard_text(turn.text) if heard else turn.text})
        book.equal(place, "conversations", told["conversations"], turns)
        asked = [turn.text for turn in one.sample.conversations if turn.speaker == "human"]
        book.equal(place, "heard", told["heard"], [{"turn": turn, "text": asked[turn]} for turn in sorted(one.asked)])
        book.equal(place, "said", told["said"], {str(turn): text for turn, text in one.words.items()})
        images, videos, audios = _listed(one, f"{slot:03d}.")
        book.equal(
            place, "lists of members", [told["images"], told["videos"], told["audios"]], [images, videos, audios]
        )


def _listed(one: Met, prefix: str) -> tuple[list[str], list[list[str]], list[str]]:
    images = [prefix + image.member for image in one.sample.images]
    videos = [[prefix + frame.member for frame in video.frames] for video in one.sample.videos]
    heard = [f"{prefix}q{turn}.flac" for turn in sorted(one.heard)]
    return images, videos, [prefix + audio.member for audio in one.sample.audios] + heard


# --- the ids --------------------------------------------------------------------------------------------------------


class _Line:
    """The ids of a context, and what `spans.json` must say of each sample in them."""

    def __init__(self, context: Context, prompt: str, met: Sequence[Met], filler: int) -> None:
        self.ids: list[int] = []
        self.parts: list[dict[str, Any]] = []
        self._context, self._words, self._filler = context, tokenizer(context.tokenizer, context.words), filler
        if context.prompt == "context":
            self._text(system(prompt))
        for slot, one in enumerate(met):
            self.parts.append(self._sample(one, f"{slot:03d}."))

    def _text(self, rendered: Sequence[Any]) -> None:
        for piece in rendered:
            self.ids += ids_of(self._words, piece)

    def _sample(self, one: Met, prefix: str) -> dict[str, Any]:
        begin, sample, context = len(self.ids), one.sample, self._context
        learnt, questions = list[list[int]](), list[dict[str, Any]]()
        media, guides = list[dict[str, Any]](), list[dict[str, Any]]()
        own, state = _media(one, context), ""
        opening = len(self._words.encode("\n")) + len(self._words.control(Control.START.value))
        opening += len(self._words.encode("assistant\n"))
        if context.prompt == "sample":
            self._text(system(prompt_of([sample.modality])))
        for turn in as_met(sample.conversations, sample.kind, sample.language, context):
            started, before, number = len(self.ids), len(media), len(questions)
            clip = one.asked.get(number) if turn.speaker == "human" else None
            for piece in pieces(turn, spoken=clip is not None, state=state if turn.speaker == "gpt" else ""):
                if not isinstance(piece, Medium):
                    self._text([piece])
                    continue
                if clip is not None and piece is Medium.AUDIO:
                    names, tokens = [f"q{number}.flac"], _audio(clip, context)
                else:
                    names, tokens = next(own[piece])
                if context.guide and piece is Medium.AUDIO and tokens and not guides:
                    guides.append({"begin": len(self.ids), "end": len(self.ids) + context.guide})
                    self.ids += [self._filler] * context.guide
                place = {"begin": len(self.ids), "end": len(self.ids) + tokens}
                media.append({"kind": piece.name.lower(), **place, "members": [prefix + name for name in names]})
                self.ids += [self._filler] * tokens
            if turn.speaker == "gpt":
                learnt += _between(started + opening, len(self.ids), [*guides, *media[before:]])
                continue
            noise = sample.kind is Kind.NOISE
            state = state_after(turn, spoken=clip is not None, noise=noise, states=context.states)
            kinds = {stands["kind"] for stands in media[before:]}
            heard = [stands["end"] for stands in media[before:] if stands["kind"] == "audio"]
            questions.append({
                "turn": number,
                "modality": "+".join(name for name in ("image", "video", "audio") if name in kinds) or "text",
                "state": STATES[2 if noise else 1 if heard else 0],
                "class_at": heard[-1] - 1 if heard and context.states == "labels" else None,
            })  # fmt: skip
        texts = list(_said(one))
        return {
            "begin": begin,
            "end": len(self.ids),
            "learnt": learnt,
            "questions": questions,
            "media": media,
            "guides": [guide["begin"] for guide in guides],
            "words": [self._words.encode(text) for text in texts],
            "said": [self._words.encode(said(text)) for text in texts],
        }


def _between(begin: int, end: int, fillers: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """What of an answer is no medium and no guide."""
    holes = sorted((one["begin"], one["end"]) for one in fillers if begin <= one["begin"] < one["end"])
    cuts = [begin, *(at for hole in holes for at in hole), end]
    return [[first, last] for first, last in zip(cuts[::2], cuts[1::2], strict=True) if first < last]


def _media(one: Met, context: Context) -> dict[Medium, Iterator[tuple[list[str], int]]]:
    """The members of each medium of a sample, and its tokens, measured on its bytes."""
    sample, rule = one.sample, context.frames
    sizes = [read_image(one.media[image.member], image.member) for image in sample.images]
    counts = tiles_of([(size.width, size.height) for size in sizes], context)
    videos = []
    for video in sample.videos:
        names = {frame.position: frame.member for frame in video.frames}
        wanted = frame_positions(video.length, video.fps, rate=rule.fps, least=rule.min, most=rule.max)
        videos.append(([names[position] for position in wanted], TILE_TOKENS * len(wanted)))
    sounds = [(audio.member, one.media[audio.member]) for audio in sample.audios]
    sounds += [("q0.flac", one.heard[0])] if one.made else []
    return {
        Medium.IMAGE: iter([([image.member], TILE_TOKENS * count)
                            for image, count in zip(sample.images, counts, strict=True)]),
        Medium.VIDEO: iter(videos),
        Medium.AUDIO: iter([([name], _audio(flac, context)) for name, flac in sounds]),
    }  # fmt: skip


def _audio(flac: bytes, context: Context) -> int:
    samples, rate = sound_length(flac)
    return audio_tokens(resampled_length(samples, rate, 16_000), context.audio)


def _said(one: Met) -> Iterator[str]:
    """The words of each recording: those of the other turn of its pair, or those that its voice was given."""
    turns = one.sample.conversations
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        for turn, other in ((question, answer), (answer, question)):
            for _ in range(turn.text.count(AUDIO)):
                yield one.words[0] if one.made else restore(PLACEHOLDER.sub("", other.text)).strip()
