"""One speech server and our one connection to it: what it answers is speech only on evidence.

A 200 proves nothing. What counts is an `audio/` type, a body as long as both HTTP and the WAV header say, 16-bit mono,
and samples that are not all zero. Everything else is `Unwell`: the server's fault, never the text's.

The standard library speaks HTTP here. To fetch a clip of 2.5 s, 160 kB, costs it 0.1 CPU-ms, httpx 0.5; and while a
client is at work, its server is not (eight of them, 50 ms a clip, asked by bare loops on two cores: 0.95 and 0.88 of
the clips that they can make). It also knows nothing of proxies, which is right for servers on the local network: a
gateway would cut off slow answers.
"""

import json
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode, urlsplit

import numpy as np

from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, TarsiaError

CONNECT = 10.0  # s
KEPT = 4.0  # s that an unused connection is kept; uvicorn, under GPT-SoVITS, closes its end after 5
READ = 1 << 18  # bytes at a time
BODY_MOST = 64 << 20  # bytes; a minute of speech at 48 kHz is 6 MB
SAID_MOST = 200  # characters quoted from an answer


class Unwell(TarsiaError):
    """A server gave no usable speech. It says nothing about the text, which stays pending.

    Codes: unreachable, timeout, cut, busy, server-error, rejected, route, key, not-audio, not-wav, format, no-samples,
    silent, rate, same-bytes, unloaded; of one voice on one server: reference, prompt, language, weights.
    """

    OF_VOICE = frozenset({"reference", "prompt", "language", "weights", "key"})  # other voices are not concerned
    OF_DRAW = frozenset({"silent", "no-samples", "same-bytes"})  # another seed may do better

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Answer(NamedTuple):
    """A whole HTTP answer; its length has been checked."""

    status: int
    kind: str  # content type, lower case
    body: bytes

    @property
    def said(self) -> str:
        """What it says, when it is not sound: the messages of a JSON body, or its beginning."""
        text = self.body[: 16 << 10].decode("utf-8", "replace")
        try:
            page = json.loads(text)
        except ValueError:
            page = text
        if isinstance(page, dict):
            told = [page[key] for key in ("message", "Exception", "error", "detail") if page.get(key)]
            plain = [part.get("message", part) if isinstance(part, dict) else part for part in told]
            page = ": ".join(map(str, plain)) or page
        return " ".join(str(page).split())[:SAID_MOST]


class _Response(HTTPResponse):
    """Reads as much as has come. With the usual 8 KiB a thread waits twice as often until it is its turn."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        self.fp = cast(BufferedReader, sock.makefile("rb", READ))


class Link:
    """One endpoint, and the one connection to it. One thread at a time; `abort` is for another."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment:
            raise BadVoices(f"endpoint '{url}' is no address such as http://10.0.0.7:9880")
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        kind = HTTPConnection if parts.scheme == "http" else HTTPSConnection
        self._connection = kind(host, port, timeout=CONNECT)
        self._connection.response_class = _Response
        self._used = 0.0
        self._holds: tuple[str, ...] | None = None

    @property
    def holds(self) -> tuple[str, ...] | None:
        """The weights that were set on the server; None if none were, () if nobody knows any more.

        A server may be another process after a fault, and after a pause, when the connection is made anew.
        """
        if self._holds is not None and time.monotonic() - self._used > KEPT:
            self._holds = ()
        return self._holds

    @holds.setter
    def holds(self, weights: tuple[str, ...]) -> None:
        self._holds = weights

    def ask(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        body: Mapping[str, Any] | bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer to one request, waited for no longer than about `seconds`; `Unwell` if none came whole.

        A mapping is sent as JSON; of bytes, `headers` say what they are.
        """
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        until = time.monotonic() + seconds
        try:
            self._connect(seconds)
            self._connection.request(
                method,
                self._base + path + (f"?{urlencode(query)}" if query else ""),
                data,
                {"content-type": "application/json", "accept-encoding": "identity", **(headers or {})},
            )
            response = self._connection.getresponse()
            answer = Answer(response.status, response.getheader("content-type", "").lower(), _whole(response, until))
        except TimeoutError:
            raise self._broken("timeout", f"no whole answer in {seconds:.0f} s") from None
        except (HTTPException, OSError) as error:
            raise self._broken("cut", f"the connection broke: {error or type(error).__name__}") from None
        except Unwell as error:
            raise self._broken(error.code, error.message) from None
        self._used = time.monotonic()
        return answer

    def _connect(self, seconds: float) -> None:
        if time.monotonic() - self._used > KEPT:
            self.close()
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError as error:
                raise Unwell("unreachable", str(error) or "no connection") from None
        self._connection.sock.settimeout(seconds)

    def _broken(self, code: str, message: str) -> Unwell:
        self.close()
        if self._holds is not None:
            self._holds = ()
        return Unwell(code, message)

    def abort(self) -> None:
        """Ends the wait of another thread."""
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connection; the next request makes a new one."""
        self._connection.close()


def _whole(response: HTTPResponse, until: float) -> bytes:
    """The body, of exactly the length that was announced."""
    announced = response.length
    if announced is None and not response.chunked:
        raise Unwell("cut", f"status {response.status} without a length: nobody can tell whether it is whole")
    parts, size = [], 0
    while part := response.read1(READ):
        parts.append(part)
        size += len(part)
        if size > BODY_MOST:
            raise Unwell("cut", f"the answer goes on after {size >> 20} MiB")
        if time.monotonic() > until:
            raise TimeoutError
    if announced is not None and size != announced:
        raise Unwell("cut", f"{announced} bytes are announced, {size} came")
    response.close()
    return b"".join(parts)


def fault(answer: Answer, route: str) -> Unwell:
    """What an answer other than 200 says of its server; `route` is asked where the path is not known there."""
    said = f"status {answer.status}: {answer.said}"
    if answer.status in {401, 403}:
        return Unwell("key", said)
    if answer.status in {404, 405}:
        return Unwell("route", f"{said}: {route}")
    if answer.status in {429, 503}:
        return Unwell("busy", said)
    return Unwell("server-error" if answer.status >= 500 else "rejected", said)


def wave_of(answer: Answer, *, streamed: bool = False) -> Wave:
    """The speech of an answer, or `Unwell`. `streamed` accepts headers that leave the length open, as OpenAI's do."""
    if not answer.kind.startswith("audio/"):
        raise Unwell("not-audio", f"status 200 with '{answer.kind}': {answer.said}")
    body = answer.body
    if body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise Unwell("not-wav", f"{len(body)} bytes of '{answer.kind}' that begin with {body[:12]!r}")
    open_ended = streamed and body[4:8] in _OPEN
    announced = int.from_bytes(body[4:8], "little") + 8
    if announced != len(body) and not open_ended:
        raise Unwell("cut", f"the header announces {announced} bytes, {len(body)} came")
    place, rate = 12, 0
    while place + 8 <= len(body):
        name, size = body[place : place + 4], int.from_bytes(body[place + 4 : place + 8], "little")
        place += 8
        if name == b"data":
            rest = len(body) - place
            if streamed and body[place - 4 : place] in _OPEN:
                size = rest
            if not rate or size > rest:
                raise Unwell("cut", f"{size} bytes of samples are announced, {rest} came")
            return Wave(_samples(body, place, size, rate), rate)
        if name == b"fmt " and size >= 16 and place + 16 <= len(body):
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body, place)
            if (tag, channels, bits) not in {(1, 1, 16), (0xFFFE, 1, 16)} or not rate:
                said = f"format {tag}, {channels} channels, {bits} bits, {rate} Hz"
                raise Unwell("format", f"not 16-bit mono PCM: {said}")
        place += size + size % 2
    raise Unwell("cut", "a WAV without samples")


_OPEN = {b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"}


def _samples(body: bytes, place: int, size: int, rate: int) -> Any:
    if size < 2:
        raise Unwell("no-samples", "a WAV of no length")
    samples = np.frombuffer(body, "<i2", count=size // 2, offset=place)
    if not samples.any():
        raise Unwell("silent", f"{len(samples) / rate:.3f} s at {rate} Hz, all samples zero")
    return samples
