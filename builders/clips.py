"""Clips: what voices have said, kept for ever under the name of what it must sound like.

A segment is a tar of FLAC files and a Parquet of verdicts, published in that order under the next free number. Where
two jobs decided the same clip, the lower number holds: the first verdict written wins.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import pyarrow as pa

from tarsia.builders.audio import encode_flac, resampled_length
from tarsia.builders.hearing import listener
from tarsia.builders.shards import TarWriter
from tarsia.builders.storage import Store
from tarsia.builders.tables import read_parquet, to_parquet
from tarsia.builders.voices import Engine, Wave, find
from tarsia.schemas.errors import Exists, Refused
from tarsia.schemas.voice import VERDICTS, Check, Voice

SEGMENT = 64  # clips of one segment: what a killed worker can lose
SECONDS_LEAST, SECONDS_MOST = 0.4, 30.0  # VITA's tools drop speech beyond 30 s; under 0.4 s nothing was said


class Order(NamedTuple):
    """A clip to be made: a voice, a language, a text, and the name that follows from them."""

    clip: str
    voice: Voice
    spoken: str


def verdicts(store: Store, pool: str) -> dict[str, dict[str, Any]]:
    """Every verdict of a pool by the name of its clip; the first written wins."""
    known: dict[str, dict[str, Any]] = {}
    for entry in store.list(f"verdicts/{pool}"):
        with store.open(entry.path) as file:
            for row in read_parquet(file).to_pylist():
                known.setdefault(row["clip"], row)
    return known


def speak_all(store: Store, pool: str, orders: Iterable[Order], *, check: Check | None = None) -> int:
    """Asks embedded voices, and seals what came of it as one segment. The number of clips accepted."""
    return seal(store, pool, ((order, _ask(order, check), 1) for order in orders))


def _ask(order: Order, check: Check | None) -> Wave | Refused:
    voice = order.voice
    engine = cast(Engine, find(voice.engine, f"voice '{voice.name}'"))
    try:
        wave = accept(engine.speak(order.spoken, language=voice.language, options=voice.options))
        if check:
            listener(check).listen(wave, order.spoken, voice.language)
    except Refused as error:
        return error
    return wave


def seal(store: Store, pool: str, decided: Iterable[tuple[Order, Wave | Refused, int]]) -> int:
    """Publishes one segment: what came of each order, and how many seeds it took. The number of clips accepted."""
    rows: list[dict[str, Any]] = []
    with store.spool() as file:
        tar = TarWriter(file)
        for order, speech, seeds in decided:
            row = {
                "clip": order.clip,
                "voice": order.voice.name,
                "engine": order.voice.engine,
                "language": order.voice.language,
                "spoken": order.spoken,
                "seeds": seeds,
            }
            if isinstance(speech, Refused):
                rows.append({**row, "reason": speech.code})
                continue
            member = tar.add(order.clip, [("flac", encode_flac(speech.samples, speech.rate))]).members[0]
            rows.append(
                {
                    **row,
                    "samples": len(speech.samples),
                    "rate": speech.rate,
                    "samples16": resampled_length(len(speech.samples), speech.rate, 16_000),
                    "offset": member.offset,
                    "size": member.size,
                    "checksum": member.checksum,
                }
            )
        accepted = sum("rate" in row for row in rows)
        path = f"clips/{pool}/{tar.close()[:16]}.tar"
        if accepted:
            store.publish(file, path)
    table = pa.Table.from_pylist([{**row, "tar": path if "rate" in row else None} for row in rows], VERDICTS)
    _publish(store, pool, to_parquet(table))
    return accepted


def accept(wave: Wave) -> Wave:
    """The wave if it is speech of a length that can be used; else `Refused` with the reason."""
    seconds = len(wave.samples) / wave.rate
    if not len(wave.samples) or not wave.samples.any():
        raise Refused("silent", "no sound at all")
    if seconds < SECONDS_LEAST:
        raise Refused("short", f"{seconds:.2f} s")
    if seconds > SECONDS_MOST:
        raise Refused("long", f"{seconds:.1f} s")
    return wave


def _publish(store: Store, pool: str, data: bytes) -> None:
    folder = f"verdicts/{pool}"
    number = max((int(entry.path[-16:-8]) for entry in store.list(folder)), default=0)
    while True:
        number += 1
        try:
            store.create(f"{folder}/{number:08d}.parquet", data)
        except Exists:
            continue
        return


def clip_bytes(store: Store, verdict: Mapping[str, Any]) -> bytes:
    """The FLAC of an accepted clip."""
    return store.read_range(verdict["tar"], verdict["offset"], verdict["size"])
