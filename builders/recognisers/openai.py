"""Any server that recognises speech as OpenAI's does: `POST {base}/audio/transcriptions`.

The endpoints are bases, such as `http://10.0.0.7:8000/v1`; all must serve the same model. Options of a check:

    model            as the servers know it; any language that the pool speaks
    prompt           what the model is told beforehand, if anything
    key_variable     the name of the environment variable that holds the key, if the servers ask for one

A clip is sent as WAV at its own rate. A server that is busy or away is tried again after a pause, each time another one
if there are several; after `ATTEMPTS` nobody is there, and nothing is said of the clip.
"""

import io
import json
import os
import time
import wave as wav
from collections.abc import Callable
from queue import SimpleQueue

from tarsia.builders.endpoints import Answer, Link, Unwell, fault
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, UnknownName
from tarsia.schemas.identity import digest
from tarsia.schemas.voice import Check

ATTEMPTS = 6  # and half a minute of pauses
LINKS = 4  # requests in flight on a server: recognisers take several, and let the others wait
PATIENCE, PER_SECOND = 60.0, 2.0  # s of waiting, and for each second of speech; ours
_OPTIONS = ("model", "prompt", "key_variable")


def version() -> str:
    """What of this file a judgement depends on."""
    return "openai 1"


def open_ears(check: Check, *, pause: Callable[[int], float]) -> "Ears":
    """Ears at the endpoints of the check."""
    if not check.endpoints:
        raise BadVoices("check: recogniser 'openai' is a server; add: endpoints: ['http://host:port/v1']")
    if strange := check.options.keys() - set(_OPTIONS):
        raise UnknownName("option", min(strange), _OPTIONS, "check: recogniser 'openai'")
    if not check.options.get("model"):
        raise BadVoices("check: recogniser 'openai' needs an option 'model', such as whisper-large-v3")
    variable = check.options.get("key_variable", "")
    if variable and not os.environ.get(variable):
        raise BadVoices(f"check: the environment variable {variable} is not set")
    return Ears(check, pause)


class Ears:
    """Connections to the servers, lent to one thread each."""

    def __init__(self, check: Check, pause: Callable[[int], float]) -> None:
        self._options = check.options
        self._pause = pause
        self._links: SimpleQueue[Link] = SimpleQueue()
        for _ in range(LINKS):
            for url in check.endpoints:
                self._links.put(Link(url))

    def close(self) -> None:
        """Ends the connections; they are made anew when they are needed."""
        for _ in range(self._links.qsize()):
            link = self._links.get()
            link.close()
            self._links.put(link)

    def hear(self, wave: Wave, language: str) -> str:
        """What is said; `Unwell` when no server answers."""
        fields = {"model": self._options["model"], "language": language, "response_format": "json", "temperature": "0"}
        if prompt := self._options.get("prompt"):
            fields["prompt"] = prompt
        body, kind = _form(fields, _wav(wave))
        headers = {"content-type": kind}
        if variable := self._options.get("key_variable"):
            headers["authorization"] = f"Bearer {os.environ.get(variable, '')}"
        seconds = PATIENCE + PER_SECOND * len(wave.samples) / wave.rate
        for attempt in range(1, ATTEMPTS + 1):
            link = self._links.get()
            try:
                answer = link.ask("POST", "/audio/transcriptions", body=body, seconds=seconds, headers=headers)
                return _text(answer)
            except Unwell as error:
                last = Unwell(error.code, f"the recogniser at {link.url}: {error.message}")
            finally:
                self._links.put(link)
            if last.code in _FINAL:
                break
            if attempt < ATTEMPTS:
                time.sleep(self._pause(attempt))
        raise Unwell(last.code, f"{last.message}; what was made is kept, run again to go on")


_FINAL = frozenset({"key", "route", "rejected"})  # another attempt would end as this one did


def _text(answer: Answer) -> str:
    if answer.status != 200:
        raise fault(answer, "does the endpoint end in /v1?")
    try:
        text = json.loads(answer.body)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise Unwell("not-text", f"status 200 without a text: {answer.said}")
    return text


def _wav(wave: Wave) -> bytes:
    sink = io.BytesIO()
    with wav.open(sink, "wb") as file:
        file.setparams((1, 2, wave.rate, 0, "NONE", ""))
        file.writeframes(wave.samples.astype("<i2").tobytes())
    return sink.getvalue()


def _form(fields: dict[str, str], sound: bytes) -> tuple[bytes, str]:
    """A multipart form with the sound as its file, and its content type."""
    edge = f"tarsia{digest(sound)[:32]}"
    parts = [
        f'--{edge}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    file = f'--{edge}\r\ncontent-disposition: form-data; name="file"; filename="clip.wav"\r\n'
    body = b"".join([*parts, file.encode(), b"content-type: audio/wav\r\n\r\n", sound, f"\r\n--{edge}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={edge}"
