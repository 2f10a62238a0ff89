r"""VITA-Audio's and Long-VITA's training files: messages with lists of media, in JSON Lines.

Long and others train on this form (https://github.com/VITA-MLLM/VITA-Audio, 2025), into which they bring two hundred
thousand hours of open speech; Long-VITA (2025) has the same with pictures and clips:

    {"messages": [{"role": "user", "content": "<|audio|>"},
                  {"role": "assistant", "content": "answer text\n<|audio|>"}], "audios": ["q.wav", "a.wav"]}
    {"messages": [{"role": "user", "content": "Convert the speech to text.\n<|audio|>"},
                  {"role": "assistant", "content": "transcript"}], "audios": ["x.wav"]}
    {"messages": [{"role": "user", "content": "Convert the text to speech.\nTEXT"},
                  {"role": "assistant", "content": "<|audio|>"}], "audios": ["x.wav"]}

Tags are `<|audio|>`, `<|image|>`, `<|video|>` in one and `<image>`, `<video>` in the other. What becomes of speech in
an answer depends on the corpus's kind. For `tts` it is all that counts: the one spoken answer and its words, or where
it has none, the text that was to be read. For all others answers are text: speech that says the same is left out, and
an answer that is speech alone is refused. Of recognition (`asr`) the request is dropped, so that speech stands alone or
with a request that the catalog gives.
"""

import re
from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.fields import fields, first_of, paths, read_json
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.parts import json_parts
from tarsia.builders.reading.speech import speech
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import TURNS, about_media, turns
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import AUDIO, IMAGE, Draft, Kind

RECORD = "one conversation"
FILES = ("**/*.jsonl", "**/*.json")

split = json_parts

_TAG = re.compile(r"<\|(audio|image|video)\|>")
_REQUESTS = {Kind.ASR: "Convert the speech to text.", Kind.TTS: "Convert the text to speech."}


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The lines."""
    return read_json(source, file)


def draft(record: Any, at: At) -> Draft:
    """The conversation with its media, in the direction of the corpus's kind."""
    record = fields(record)
    kind = at.corpus.kind
    given = first_of(record, TURNS)
    audios = paths(record, "audios", "audio")
    left = list(audios)
    heard: list[str] = []
    said: list[dict[str, str]] = []
    answers: list[tuple[str, str]] = []  # words and speech of spoken answers
    given_turns = turns([_tagged(entry) for entry in given] if isinstance(given, list) else given)
    language = language_of(at.corpus.language, " ".join(turn.text for turn in given_turns))
    for turn in given_turns:
        count = turn.text.count(AUDIO) if audios else 0
        if count > len(left):
            raise Refused("placeholders", f"{AUDIO} stands more often than there is audio")
        own, left = left[:count], left[count:]
        words = turn.text.replace(AUDIO, "").strip() if turn.speaker == "gpt" and own else turn.text
        if turn.speaker == "human":
            words = _asked_anew(words, language, at)
            heard += own
        elif kind is Kind.TTS:
            answers += [(words or said[-1]["value"], path) for path in own]
        elif not words:
            raise Refused("answer-spoken", "an answer is speech alone; a corpus of kind tts takes it")
        said.append({"from": turn.speaker, "value": words})
    if left:
        raise Refused("placeholders", f"{len(left)} audios that no {AUDIO} stands for")
    if kind is Kind.TTS:
        return _read_aloud(answers, at)
    images, videos = paths(record, "images", "image"), paths(record, "videos", "video")
    return about_media(said, IMAGE, images=images, videos=videos, audios=tuple(heard))


def _tagged(entry: Any) -> Any:
    """A message with the placeholders that everything else here uses."""
    content = entry.get("content", entry.get("value")) if isinstance(entry, dict) else None
    if not isinstance(content, str):
        return entry
    role = entry.get("role", entry.get("from"))
    return {"role": role, "content": _TAG.sub(r"<\1>", content)}


def _asked_anew(words: str, language: str, at: At) -> str:
    """A turn without the family's request; a request of the catalog stands in its place, if there is one."""
    request = _REQUESTS.get(at.corpus.kind)
    if not request or not words.strip().startswith(request):
        return words
    left = words.strip().removeprefix(request).strip()
    if at.corpus.kind is Kind.TTS or not at.corpus.template:
        return left  # of synthesis, `speech` asks
    return f"{left}\n{choose('transcribe-speech', language, at)}"


def _read_aloud(answers: list[tuple[str, str]], at: At) -> Draft:
    """The words of the one spoken answer, and its speech."""
    if len(answers) != 1:
        raise Refused("answer-unspoken", f"one spoken answer was due, not {len(answers)}")
    words, audio = answers[0]
    words = words.replace(AUDIO, "").strip()
    if not words:
        raise Refused("text-missing", "the speech has no words")
    return speech(words, audio, at)
