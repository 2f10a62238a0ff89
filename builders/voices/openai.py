"""Any server that speaks as OpenAI's does: `POST {base}/audio/speech`.

The endpoint is the base, such as `http://10.0.0.7:8000/v1`. Options of a voice:

    model   voice    as the server knows them
    speed            the server's default if absent
    instructions     how to speak, for models that listen to it
    rate             Hz; else the rate of the voice's first good clip is the rate of all
    key_variable     the name of the environment variable that holds the key, if the server asks for one

Only WAV is asked for. There is no seed: another draw is just another request.
"""

import os
from typing import Any, Self

from pydantic import Field, ValidationError

from tarsia.builders.endpoints import Link, Unwell, fault, wave_of
from tarsia.builders.evidence import seconds_of
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices
from tarsia.schemas.model import Model
from tarsia.schemas.voice import Voice

PATIENCE = 60.0  # s besides the work itself; ours
PER_SECOND = 6.0  # s of waiting for each second of expected speech; ours
_ROUTE = "does the endpoint end in /v1?"


class Request(Model):
    """One `POST {base}/audio/speech`."""

    voice: str
    text: str = Field(min_length=1)
    model: str = Field(min_length=1)
    speaker: str = Field(min_length=1)
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    instructions: str = ""
    rate: int = Field(default=0, ge=0)  # Hz; 0: not known
    key_variable: str = ""

    @property
    def setting(self) -> tuple[str, ...]:
        """What a server may have to load."""
        return self.model, self.speaker

    def seeded(self, seed: int) -> Self:
        """The same: there are no seeds."""
        del seed
        return self

    def body(self) -> dict[str, Any]:
        """What is sent; what is as the server has it anyway stays out."""
        body = {"model": self.model, "voice": self.speaker, "input": self.text, "response_format": "wav"}
        more = {"speed": self.speed if self.speed != 1 else None, "instructions": self.instructions or None}
        return {**body, **{name: value for name, value in more.items() if value is not None}}


def version() -> str:
    """What of this file the sound depends on."""
    return "openai 1"


def request(voice: Voice, spoken: str, *, seed: int = 0) -> Request:
    """The request for a text in a voice; `BadVoices` if the options are wrong."""
    del seed
    if strange := {"text", "speaker"} & voice.options.keys():
        raise BadVoices(f"voice '{voice.name}': {min(strange)}: no such option")
    options = {"speaker" if name == "voice" else name: value for name, value in voice.options.items()}
    try:
        return Request.model_validate({**options, "voice": voice.name, "text": spoken})
    except ValidationError as error:
        wrong = error.errors()[0]
        place = "voice" if wrong["loc"] == ("speaker",) else ".".join(map(str, wrong["loc"]))
        said = "no such option" if wrong["type"] == "extra_forbidden" else wrong["msg"]
        raise BadVoices(f"voice '{voice.name}': {place}: {said}") from error


def patience(request: Request) -> float:
    """How long to wait for an answer, in seconds."""
    return PATIENCE + PER_SECOND * seconds_of(request.text) / min(1.0, request.speed)


def say(link: Link, request: Request, seconds: float) -> Wave:
    """The text as that voice speaks it, on evidence; else `Unwell`."""
    headers = _authorization(request)
    answer = link.ask("POST", "/audio/speech", body=request.body(), seconds=seconds, headers=headers)
    if answer.status != 200:
        raise fault(answer, _ROUTE)
    wave = wave_of(answer, streamed=True)
    if request.rate and wave.rate != request.rate:
        raise Unwell("rate", f"{wave.rate} Hz, where voice '{request.voice}' speaks at {request.rate} Hz")
    return wave


def probe(link: Link, seconds: float) -> None:
    """Nothing if a server answers, whatever it says."""
    answer = link.ask("GET", "/models", seconds=seconds)
    if answer.status >= 500:
        raise fault(answer, _ROUTE)


def _authorization(request: Request) -> dict[str, str]:
    if not request.key_variable:
        return {}
    if not (key := os.environ.get(request.key_variable)):
        raise BadVoices(f"voice '{request.voice}': the environment variable {request.key_variable} is not set")
    return {"authorization": f"Bearer {key}"}
