"""What each sample costs in a context, computed from the facts of the index and the text alone: no medium is opened.

Costs depend on the recipe's context settings (tokenizer, tiles, frames) and on nothing else, so they are cached under
the digest of those: another tile rule rereads text and facts, never images. A question has two costs, since it may be
read or heard; its audio is counted when its clip is known.
"""

from typing import Any

import pyarrow as pa

from tarsia.builders.audio import resampled_length
from tarsia.builders.chat import turn_tokens
from tarsia.builders.speech import SPEAKABLE_RULES, unspeakable
from tarsia.builders.tokens import Tokenizer, audio_tokens, frame_positions, tiles
from tarsia.schemas.errors import BadRecipe
from tarsia.schemas.identity import digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.recipe import Context
from tarsia.schemas.sample import Turn

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
INDEX_COLUMNS = ("key", "language", "images", "audios", "videos")


def settings_digest(context: Context) -> str:
    """The identity of everything that costs depend on, 16 hex digits."""
    fields = context.model_dump(mode="json", exclude={"tokens"})
    return digest_of([FORMAT, SPEAKABLE_RULES, fields])[:16]


def count(index: pa.Table, text: pa.Table, context: Context, tokenizer: Tokenizer) -> pa.Table:
    """The costs of the samples of one shard, of the schema COSTS."""
    rows = []
    for facts, said in zip(index.select(INDEX_COLUMNS).to_pylist(), text.to_pylist(), strict=True):
        turns = [Turn.model_validate(turn) for turn in said["conversations"]]
        questions = [turn for turn in turns if turn.speaker == "human"]
        answers = [turn for turn in turns if turn.speaker == "gpt"]
        rows.append(
            {
                "key": facts["key"],
                "answers": sum(turn_tokens(tokenizer, turn, spoken=False) for turn in answers),
                "read": [turn_tokens(tokenizer, turn, spoken=False) for turn in questions],
                "heard": [turn_tokens(tokenizer, turn, spoken=True) for turn in questions],
                "speakable": [unspeakable(turn.text, facts["language"]) is None for turn in questions],
                **media_costs(facts, context),
            }
        )
    return pa.Table.from_pylist(rows, COSTS)


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
    return {
        "tiles": sum(
            tiles(image["width"], image["height"], most=context.tiles, thumbnail=context.thumbnail)
            for image in facts["images"]
        ),
        "frames": frames,
        "audio_tokens": sum(
            audio_tokens(resampled_length(audio["samples"], audio["rate"], 16_000)) for audio in facts["audios"]
        ),
        "seconds": sum(audio["samples"] / audio["rate"] for audio in facts["audios"]),
    }
