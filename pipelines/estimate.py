"""`tarsia speak --dry-run`: what speaking would come to, before any voice is asked.

Questions are counted as `speak` counts them, from the sidecars that stand. What is missing is estimated from the
questions as they are written: they are not normalised, which at two million questions is most of the work, so numbers
count as fewer letters than they have when they are read out. Texts are counted once a voice; those that another corpus
has had spoken already are not known here, so the figures are upper bounds.
"""

from collections.abc import Sequence
from math import sqrt

import pyarrow as pa

from tarsia.builders.evidence import seconds_of
from tarsia.builders.lake import Lake
from tarsia.builders.phrases import questions
from tarsia.builders.speech import plain
from tarsia.pipelines.job import Job
from tarsia.pipelines.pool import Pool as Workers
from tarsia.pipelines.served import calibrations, check_references, served
from tarsia.pipelines.told import Spoken
from tarsia.schemas.model import Model
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.voice import Pool

REAL_TIME_FACTOR = 0.03  # s of a server's work for each second of speech; GPT-SoVITS claims 0.028 on an RTX 4060 Ti
RATE = 24_000  # Hz, of a voice that was never heard
FLAC = 0.9  # bytes a sample; speech at 24 kHz takes 21.4 kB a second
COPIES = 2  # in the clip store, and in a sidecar


class Missing(Model):
    """What one voice would still be asked for."""

    voice: str
    texts: int  # each counted once
    characters: int
    hours: float  # of speech
    working_hours: float  # of one server; 0 for an embedded voice
    bytes: int


class Estimate(Model):
    """What speaking would come to."""

    questions: tuple[Spoken, ...] = ()
    voices: tuple[Missing, ...] = ()
    real_time_factor: float


def estimate(
    recipe: Recipe,
    lake: Lake,
    pool: Pool,
    workers: Workers,
    *,
    only: Sequence[str] = (),
    real_time_factor: float = REAL_TIME_FACTOR,
    quiet: bool = False,
) -> Estimate:
    """What is decided and what is missing. Asks no voice and publishes nothing; costs are counted and kept as ever."""
    check_references(pool)
    servers = served(pool)
    job = Job(recipe, lake, pool, workers, only=only, quiet=quiet)
    texts = _texts(job)
    voices = []
    for number, voice in enumerate(pool.voices):
        known = calibrations(lake.store, pool, voice.engine).get(voice.name) if voice.engine in servers else None
        pace = sqrt(known.pace.least * known.pace.most) if known else 1.0
        seconds = pace * sum(seconds_of(text) for text in texts[number])
        voices.append(
            Missing(
                voice=voice.name,
                texts=len(texts[number]),
                characters=sum(map(len, texts[number])),
                hours=round(seconds / 3600, 4),
                working_hours=round(seconds * real_time_factor / 3600, 4) if voice.engine in servers else 0.0,
                bytes=round(seconds * (known.rate if known else RATE) * FLAC * COPIES),
            )
        )
    return Estimate(questions=tuple(job.report()), voices=tuple(voices), real_time_factor=real_time_factor)


def _texts(job: Job) -> list[set[str]]:
    """For each voice of the pool, the different questions that it would be asked, as they are written."""
    texts: list[set[str]] = [set() for _ in job.pool.voices]
    for told in job.told.values():
        due = job.expected(told)
        voices = told.cast(due)
        done = 0
        for shard, part, _ in told.shards(due):
            written = questions(job.lake.store, shard).take(pa.array(part)).to_pylist()
            for text, voice in zip(written, voices[done : done + len(part)].tolist(), strict=True):
                texts[voice].add(plain(text))
            done += len(part)
    return texts
