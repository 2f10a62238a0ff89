"""Voice: who speaks; Verdict: what came of asking a voice to speak a text. First verdict written wins, for ever.

A **clip** is named by what it must sound like: the digest of the voice's identity (engine, version, options) and of the
spoken text. Equal text in an equal voice is therefore synthesised once, whatever corpus or stage asks for it.
Verdicts and clips are stored in sealed segments, a Parquet of verdicts beside a tar of FLAC files:

    verdicts/<pool>/00000001.parquet     published by conditional create, after its tar
    clips/<pool>/<digest>.tar

What a voice of a server sounds like when it is well is measured once, and kept as `voices/<pool>/<identity>.json`;
how the clips of a pool are checked is kept beside it, as `check.json`.
"""

from decimal import Decimal
from typing import Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from tarsia.schemas.identity import digest_of
from tarsia.schemas.model import Model

_NAMES = pa.dictionary(pa.int32(), pa.string())

VERDICTS = pa.schema(
    [
        ("clip", pa.string()),  # 32 hex digits
        ("voice", _NAMES),
        ("engine", _NAMES),
        ("language", _NAMES),
        ("spoken", pa.string()),
        ("reason", pa.string()),  # null: accepted; else the reason code of the refusal
        ("seeds", pa.int32()),  # how many attempts it took
        ("heard", pa.string()),  # what a recogniser wrote down, of the last attempt; null: none listened
        ("missed", pa.float64()),  # the share of the text that it did not hear, or heard beside it: WER or CER
        ("samples", pa.int64()),
        ("rate", pa.int32()),
        ("samples16", pa.int64()),
        ("tar", _NAMES),  # where the FLAC lies
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("checksum", pa.uint64()),
    ]
)


class Voice(Model):
    """One voice of a pool. `share` weighs it against the other voices of its language."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    engine: str
    language: str  # en | zh
    licence: str = ""
    share: Decimal = Field(default=Decimal(1), gt=0)
    options: dict[str, str] = {}

    def identity(self, engine_version: str) -> str:
        """The digest of everything that its sound depends on, 16 hex digits."""
        return digest_of([self.engine, engine_version, self.language, self.options])[:16]


class Part(Model):
    """A voice as its pool casts it: all that decides which questions it is given, and what it sounds like."""

    name: str
    identity: str
    language: str
    share: Decimal


class Check(Model):
    """How clips are checked by recognising them: by whom, and how much of a text may be misheard.

    A language without a limit is not checked. `endpoints` says where a recogniser's servers are.
    """

    recogniser: str
    endpoints: tuple[str, ...] = ()
    options: dict[str, str] = {}
    wer: Decimal | None = Field(default=None, ge=0, lt=1)  # of English: words misheard, of 1
    cer: Decimal | None = Field(default=None, ge=0, lt=1)  # of Mandarin: characters misheard, of 1

    @model_validator(mode="after")
    def _checks(self) -> Self:
        if self.wer is None and self.cer is None:
            raise ValueError("say how much may be misheard: wer (English), cer (Mandarin) or both, such as 0.2")
        return self

    def limit(self, language: str) -> float | None:
        """How much of a text in that language may be misheard."""
        most = self.wer if language == "en" else self.cer
        return None if most is None else float(most)


class Pool(Model):
    """Voices that are drawn from together; sidecars belong to a pool.

    `endpoints` says where an engine's servers are. It is part of no identity: the same voice may speak elsewhere.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    voices: tuple[Voice, ...] = Field(min_length=1)
    endpoints: dict[str, tuple[str, ...]] = {}
    check: Check | None = None
    detector: Literal["energy", "silero"] = "energy"  # what tells how much of a clip is speech


def clip_name(voice_identity: str, spoken: str) -> str:
    """The name of a clip, 32 hex digits."""
    return digest_of([voice_identity, spoken])[:32]
