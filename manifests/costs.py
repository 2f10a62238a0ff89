"""What each sample costs in a context, computed from the facts of the index and the text alone: no medium is opened.

Costs depend on the recipe's context settings (tokenizer, tiles, frames, sound, states) and on nothing else, so they are
cached under the digest of those and of the vocabulary file: another tile rule rereads text and facts, never images. A
question has two costs, since it may be read or heard; its audio is counted when its clip is known.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tarsia.builders.audio import resampled_length
from tarsia.builders.chat import as_met, state_after, turn_tokens
from tarsia.builders.speech import SPEAKABLE_RULES, unspeakable
from tarsia.builders.tokens import (
    Tokenizer,
    audio_tokens,
    frame_positions,
    sound_runs,
    tiles,
    tiles_each,
    tokenizer,
)
from tarsia.schemas.errors import BadRecipe
from tarsia.schemas.identity import digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.recipe import SOUND_MARKS, Context
from tarsia.schemas.sample import AUDIO, MADE, PLACEHOLDER, Kind, Turn

COSTS = pa.schema(
    [
        ("key", pa.string()),
        ("answers", pa.int32()),  # text tokens of all answers
        ("read", pa.list_(pa.int32())),  # text tokens of each question when it is read
        ("heard", pa.list_(pa.int32())),  # and when it is heard, without its audio
        ("speakable", pa.list_(pa.bool_())),
        ("tiles", pa.int32()),
        ("frames", pa.int32()),
        ("audio_tokens", pa.int32()),
        ("seconds", pa.float64()),
    ]
)
RULES = 2  # another number where the same settings give other costs
INDEX_COLUMNS = ("key", "kind", "language", "questions", "images", "audios", "videos", "length")


def settings_digest(context: Context) -> str:
    """The identity of everything that costs depend on, the bytes of the vocabulary included, 16 hex digits."""
    fields = context.model_dump(mode="json", exclude={"tokens", "prompt", "positions", "tokenizer", "guide"})
    return digest_of([FORMAT, RULES, SPEAKABLE_RULES, fields, words_of(context).digest])[:16]


def words_of(context: Context) -> Tokenizer:
    """The tokenizer of a recipe."""
    return tokenizer(context.tokenizer, context.words)


def count(index: pa.Table, text: pa.Table, context: Context) -> pa.Table:
    """The costs of the samples of one shard, of the schema COSTS."""
    words, rows = words_of(context), []
    columns = index.select(INDEX_COLUMNS).to_pylist()
    for facts, said in zip(columns, text.to_pylist(), strict=True):
        if not facts["length"]:
            rows.append(_taken_down(facts))
            continue
        turns = [Turn.model_validate(turn) for turn in said["conversations"]]
        turns = as_met(turns, facts["kind"], facts["language"], context)
        media = media_costs(facts, context)
        media["audio_tokens"] += _markers(turns, facts, context)
        rows.append({"key": facts["key"], **_text_costs(turns, facts, context, words), **media})
    return pa.Table.from_pylist(rows, COSTS)


def _taken_down(facts: dict[str, Any]) -> dict[str, Any]:
    """No token, and no question that may be spoken; its hours still count where hours are asked."""
    none = [0] * facts["questions"]
    nothing = {"answers": 0, "read": none, "heard": none, "speakable": [False] * len(none)}
    seconds = sum(audio["samples"] / audio["rate"] for audio in facts["audios"])
    return {"key": facts["key"], **nothing, "tiles": 0, "frames": 0, "audio_tokens": 0, "seconds": seconds}


def _text_costs(turns: Sequence[Turn], facts: dict[str, Any], context: Context, words: Tokenizer) -> dict[str, Any]:
    """What is said; a question that is heard bears what its answer's state then costs more.

    Noise and text-to-speech are said wherever they have no sound, and never where they have one.
    """
    kind, alike = Kind(facts["kind"]), words.states_alike and context.states == "tokens"
    noise, aloud = kind is Kind.NOISE, kind is not Kind.TTS  # of text-to-speech the answer is heard
    made = not (facts["images"] or facts["audios"] or facts["videos"]) if kind in MADE else None
    costs: dict[str, Any] = {"answers": 0, "read": [], "heard": [], "speakable": []}
    question = turns[0]
    for turn in turns:
        if turn.speaker == "human":
            question = turn
            costs["read"].append(turn_tokens(words, turn, spoken=False, state=""))
            costs["heard"].append(turn_tokens(words, turn, spoken=aloud, state=""))
            costs["speakable"].append(unspeakable(turn.text, facts["language"]) is None if made is None else made)
            continue
        read, heard = (state_after(question, spoken=one, noise=noise, states=context.states) for one in (False, aloud))
        cost = turn_tokens(words, turn, spoken=False, state=read)
        costs["answers"] += cost
        if read != heard and not alike:
            costs["heard"][-1] += turn_tokens(words, turn, spoken=False, state=heard) - cost
    return costs


def _markers(turns: Sequence[Turn], facts: dict[str, Any], context: Context) -> int:
    """The tokens that cut the sound of answers into runs between runs of text, beyond those of every sound."""
    sounds, more = iter(facts["audios"]), 0
    for turn in turns if context.interleave and facts["audios"] else ():
        mine = [_sound_tokens(next(sounds), context) for _ in range(turn.text.count(AUDIO))]
        if turn.speaker == "gpt" and len(mine) == 1:
            text = words_of(context).count(PLACEHOLDER.sub("", turn.text))
            more += SOUND_MARKS * (sound_runs(text, mine[0] - SOUND_MARKS, context.interleave) - 1)
    return more


def _sound_tokens(audio: dict[str, Any], context: Context) -> int:
    return audio_tokens(resampled_length(audio["samples"], audio["rate"], 16_000), context.audio)


def media_costs(facts: dict[str, Any], context: Context) -> dict[str, Any]:
    """Tiles, frames, audio tokens and seconds of one row of the index."""
    frames = 0
    for video in facts["videos"]:
        rule = context.frames
        wanted = frame_positions(video["length"], video["fps"], rate=rule.fps, least=rule.min, most=rule.max)
        stored = {frame["position"] for frame in video["frames"]}
        if not set(wanted) <= stored:
            raise BadRecipe(
                f"sample {facts['key']}: the recipe's frames ({rule.fps} a second, {rule.min} to {rule.max}) were not "
                "all stored; ingest keeps those of 1 and 3 frames a second, 4 to 16 each"
            )
        frames += len(wanted)
    sizes = [(image["width"], image["height"]) for image in facts["images"]]
    each = tiles_each(sizes, most=context.tiles, thumbnail=context.thumbnail, cap=context.sample_tiles)
    return {
        "tiles": sum(tiles(*size, most=each, thumbnail=context.thumbnail) for size in sizes),
        "frames": frames,
        "audio_tokens": sum(_sound_tokens(audio, context) for audio in facts["audios"]),
        "seconds": sum(audio["samples"] / audio["rate"] for audio in facts["audios"]),
    }
