"""The deep half of the audit: every tar is read again, every medium looked at, every token counted anew.

Nothing that an index or a manifest says is taken for granted here. A sample's length comes from the words in its tar,
rendered as the model will meet them, from the sizes in its images' headers, and from the samples in its FLAC files.
Tars are read one after the other, so that memory holds one of them, whatever the lake's size.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import soundfile

from tarsia.builders.audio import resampled_length
from tarsia.builders.chat import Medium, as_met, ids_of, pieces, prompt_of, state_after, system
from tarsia.builders.images import read_image
from tarsia.builders.shards import members
from tarsia.builders.speech import unspeakable
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.builders.tokens import TILE_TOKENS, audio_tokens, frame_positions, tiles, tokenizer
from tarsia.manifests.findings import Book
from tarsia.schemas.identity import checksum, digest
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.recipe import Context
from tarsia.schemas.sample import AUDIO, Kind, Sample
from tarsia.schemas.shard import Shard, Stored

Group = tuple[str, str, str]  # corpus, language, modality


class Claim(NamedTuple):
    """What a manifest says: its samples, to be found again in the bytes."""

    where: str
    manifest: Manifest
    source: Snapshot
    samples: pa.Table
    unplaced: Mapping[str, Mapping[int, int]]  # key -> copy -> tokens
    due: Mapping[tuple[str, int], Mapping[int, int]]  # of unplaced copies: the turns heard, their samples at 16 kHz
    decided: Mapping[Group, int]  # questions with a verdict, of the selected
    takes: Mapping[Group, int]  # to which of the stage's takes samples belong


class Cost(NamedTuple):
    """What a sample is in a context."""

    tokens: int
    tiles: int
    frames: int
    audio_tokens: int
    seconds: float


def reread(store: Store, snapshots: Sequence[Snapshot], claims: Sequence[Claim], book: Book) -> None:
    """Reads every object of the snapshots, and of those that the claims were planned from."""
    lakes = [*snapshots, *(claim.source for claim in claims)]
    shards = {shard.objects: shard for lake in lakes for state in lake.corpora for shard in state.shards}
    sidecars = {stored for lake in lakes for state in lake.speech for shard in state.shards for stored in shard.objects}
    others = {stored for lake in lakes for state in lake.corpora for stored in state.origins}
    others |= {state.quarantine for lake in lakes for state in lake.corpora if state.quarantine}
    for stored in sorted(others | sidecars, key=lambda one: (one.path, one.digest)):
        whole(store, stored, book)
    tallies, met = [_Tally(claim) for claim in claims], set[str]()
    for shard in shards.values():
        with book.reading(shard.tar.path):
            _reread_shard(store, shard, () if shard.tar.path in met else tallies, book)
        met.add(shard.tar.path)
    for tally in tallies:
        with book.reading(tally.claim.where):
            tally.close(book)


def whole(store: Store, stored: Stored, book: Book) -> bytes:
    """An object, compared with its digest."""
    data = b""
    with book.reading(stored.path):
        data = store.read(stored.path)
        book.equal(stored.path, "BLAKE3", stored.digest, digest(data))
    return data


def _reread_shard(store: Store, shard: Shard, tallies: Sequence["_Tally"], book: Book) -> None:
    """One tar beside its index and its text, and what the manifests say of the samples in it."""
    path = shard.tar.path
    data = whole(store, shard.tar, book)
    index, text = (get_table(store, stored, verify=True).to_pylist() for stored in (shard.index, shard.text))
    book.equal(path, "samples in the text", [row["key"] for row in index], [row["key"] for row in text])
    said = {row["key"]: row["conversations"] for row in text}
    for row in index:
        if not row["length"]:  # taken down
            silence = [{"from": "human", "value": ""}] * row["questions"]
            book.equal(f"{path} {row['key']}", "text", said.get(row["key"]), silence)
            continue
        place = f"{path} {row['key']}"
        with book.reading(place):
            span = data[row["offset"] : row["offset"] + row["length"]]
            book.equal(place, "XXH3", row["checksum"], checksum(span))
            media = members(span, row["key"], path)
            sample = Sample.model_validate_json(media.pop("json"))
            _check_facts(place, sample, row, said.get(row["key"]), media, book)
            for tally in tallies:
                tally.add(store, path, sample, media, book)


def _check_facts(
    place: str, sample: Sample, row: dict[str, Any], said: Any, media: dict[str, bytes], book: Book
) -> None:
    """The index and the text say what the tar's JSON says, and that is true of its media."""
    fields = sample.model_dump(mode="json", by_alias=True)
    same = ("key", "corpus", "id", "kind", "language", "images", "audios", "videos")
    book.equal(place, "facts", {name: row[name] for name in same}, {name: fields[name] for name in same})
    book.equal(place, "modality", row["modality"], sample.modality)
    book.equal(place, "questions", row["questions"], sample.questions)
    book.equal(place, "text", said, fields["conversations"])
    frames = [frame for video in sample.videos for frame in video.frames]
    parts = {image.member: image.digest for image in sample.images}
    parts |= {audio.member: audio.digest for audio in sample.audios}
    parts |= {frame.member: frame.digest for frame in frames}
    parts |= {video.original.member: video.original.digest for video in sample.videos if video.original}
    book.equal(place, "media", parts, {name: digest(data)[:32] for name, data in media.items()})
    for image in sample.images:
        header = read_image(media[image.member], place)
        book.equal(place, f"size of {image.member}", (image.width, image.height), (header.width, header.height))
    for audio in sample.audios:
        book.equal(place, f"length of {audio.member}", (audio.samples, audio.rate), sound_length(media[audio.member]))


def sound_length(flac: bytes) -> tuple[int, int]:
    """Samples and rate of a FLAC."""
    info = soundfile.info(io.BytesIO(flac))
    return info.frames, info.samplerate


# --- what a manifest says of samples --------------------------------------------------------------------------------


class _Tally:
    """The samples of a claim, met tar by tar."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._speakable: Counter[Group] = Counter()
        shards = claim.samples["shard"].fill_null(-1).to_numpy()
        self._order = np.argsort(shards, kind="stable")
        self._sorted = shards[self._order]
        self._numbers = {stored.path: number for number, stored in enumerate(claim.manifest.shards)}
        self._path, self._rows = "", dict[str, list[dict[str, Any]]]()
        self._waiting = len(claim.samples)
        self._tokens: Counter[tuple[str, int]] = Counter()  # of all that a take admits, where it asks for tokens
        asks = claim.manifest.asks
        self._counted = {(ask.corpus, ask.take) for ask in asks if ask.available_tokens is not None}

    def add(self, store: Store, path: str, sample: Sample, media: Mapping[str, bytes], book: Book) -> None:
        """Compares what the manifest says of a sample with what it is."""
        rows, claim = self._in(path).pop(sample.key, []), self.claim
        where, context = f"{claim.where} {sample.key}", claim.manifest.context
        group = (sample.corpus, sample.language, sample.modality)
        take = (sample.corpus, claim.takes.get(group, -1))
        if take in self._counted:
            bare = context.model_copy(update={"prompt": "none"})
            self._tokens[take] += cost_of(sample, media, {}, bare).tokens
        for row in rows:
            cost = cost_of(sample, media, clip_lengths(store, claim.manifest, row, book, where), context)
            self._waiting -= 1
            for name, found in cost._asdict().items():
                book.equal(where, name, row[name], found)
        unplaced = claim.unplaced.get(sample.key, {})
        for copy, tokens in unplaced.items():
            cost = cost_of(sample, media, claim.due.get((sample.key, copy), {}), context)
            book.equal(where, "tokens", tokens, cost.tokens)
        questions = [turn.text for turn in sample.conversations if turn.speaker == "human"]
        if sample.kind in (Kind.TTS, Kind.NOISE):
            speakable = len(questions) * (sample.modality == "text")
        else:
            speakable = sum(unspeakable(question, sample.language) is None for question in questions)
        self._speakable[group] += speakable * (len(rows) + len(unplaced))

    def close(self, book: Book) -> None:
        """Says how many samples were never met, and compares the counts that only the words can tell."""
        book.equal(self.claim.where, "samples not found in any tar", 0, self._waiting)
        for ask in self.claim.manifest.asks:
            if ask.available_tokens is not None:
                found = self._tokens[ask.corpus, ask.take]
                book.equal(f"{self.claim.where} {ask.corpus}", "tokens in the lake", ask.available_tokens, found)
        for one in self.claim.manifest.counts:
            if self.claim.manifest.stage.spoken is None and one.kind not in (Kind.TTS, Kind.NOISE):
                continue
            group = (one.corpus, one.language, one.modality)
            where, pending = f"{self.claim.where} {' '.join(group)}", one.speakable - self.claim.decided.get(group, 0)
            book.equal(where, "speakable", one.speakable, self._speakable[group])
            book.equal(where, "pending", one.pending, pending)

    def _in(self, path: str) -> dict[str, list[dict[str, Any]]]:
        if path != self._path:
            number = self._numbers.get(path, -2)
            begin, end = np.searchsorted(self._sorted, [number, number + 1])
            rows = self.claim.samples.take(pa.array(self._order[begin:end])).to_pylist()
            self._path, self._rows = path, {}
            for row in rows:
                self._rows.setdefault(row["key"], []).append(row)
        return self._rows


def clip_lengths(store: Store, manifest: Manifest, row: Mapping[str, Any], book: Book, where: str) -> dict[int, int]:
    """The heard turns of a placed sample, and how many samples at 16 kHz their FLAC files come to."""
    if not row["spoken"]:
        return {}
    path = manifest.shards[row["speech_shard"]].path
    span = store.read_range(path, row["speech_offset"], row["speech_length"])
    book.equal(where, "XXH3 of its speech", row["speech_checksum"], checksum(span))
    clips = members(span, row["key"], path)
    lengths = {turn: sound_length(clips[f"q{turn}.flac"]) for turn in row["spoken"]}
    return {turn: resampled_length(samples, rate, 16_000) for turn, (samples, rate) in lengths.items()}


def cost_of(sample: Sample, media: Mapping[str, bytes], heard: Mapping[int, int], context: Context) -> Cost:
    """A sample as the model meets it, piece by piece; `heard`: samples at 16 kHz of the questions that are."""
    words, rule = tokenizer(context.tokenizer, context.words), context.frames
    sizes = [read_image(media[image.member], image.member) for image in sample.images]
    images = iter(tiles_of([(one.width, one.height) for one in sizes], context))
    videos = iter(
        [
            len(frame_positions(one.length, one.fps, rate=rule.fps, least=rule.min, most=rule.max))
            for one in sample.videos
        ]
    )
    made = [(heard[0], 16_000)] if sample.kind is Kind.TTS and not sample.audios and heard else []
    audios = iter([*(sound_length(media[audio.member]) for audio in sample.audios), *made])
    rendered = system(prompt_of([sample.modality])) if context.prompt == "sample" else []
    text = sum(len(ids_of(words, piece)) for piece in rendered)
    seen = frames = audio = turn_number = 0
    seconds, state = 0.0, ""
    for turn in as_met(sample.conversations, sample.kind, sample.language, context):
        spoken, sounds = turn.speaker == "human" and turn_number in heard and not made, []
        for piece in pieces(turn, spoken=spoken, state=state):
            text += len(ids_of(words, piece))
            if piece is Medium.IMAGE:
                seen += next(images)
            elif piece is Medium.VIDEO:
                frames += next(videos)
            elif piece is Medium.AUDIO:
                samples, rate = (heard[turn_number], 16_000) if spoken else next(audios, (0, 16_000))
                if not samples:
                    continue  # nobody has said it
                sounds.append(audio_tokens(resampled_length(samples, rate, 16_000), context.audio))
                seconds += samples / rate
        audio += sum(sounds)
        if context.interleave and turn.speaker == "gpt" and len(sounds) == 1:
            audio += 2 * _cuts(len(words.encode(turn.text.replace(AUDIO, ""))), sounds[0] - 2, context.interleave)
        if turn.speaker == "human":
            noise = sample.kind is Kind.NOISE
            state = state_after(turn, spoken=spoken, noise=noise, states=context.states)
            turn_number += 1
    text += context.guide if audio else 0
    return Cost(text + TILE_TOKENS * (seen + frames) + audio, seen, frames, audio, seconds)


def tiles_of(sizes: Sequence[tuple[int, int]], context: Context) -> list[int]:
    """The tiles of each image of a sample: with the largest number for each that keeps the sample within its cap."""
    for each in range(context.tiles, 0, -1):
        counts = [tiles(*size, most=each, thumbnail=context.thumbnail) for size in sizes]
        if context.sample_tiles is None or sum(counts) <= context.sample_tiles:
            break
    return counts


def _cuts(text: int, sound: int, interleave: Sequence[int]) -> int:
    """How often the sound of an answer is interrupted by its text, run by run."""
    runs, at = 0, 0
    while text > 0 and sound > 0:
        text -= interleave[at]
        sound -= interleave[at + 1] - 2
        at = min(at + 2, len(interleave) - 2)
        runs += 1
    return max(runs - 1, 0)
