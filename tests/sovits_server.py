"""A real HTTP server that behaves as GPT-SoVITS does, failures included, and counts what it is asked.

A rule decides what becomes of each request: it gets the body and the number of the request and returns a `Play`. The
server answers one request at a time, the other routes waiting too, as the event loop of `api_v2.py` does. It speaks the
dialects of `api_v2.py` (POST /tts), `api.py` (POST /) and OpenAI (POST /v1/audio/speech).

As a program it serves from its own process: `python sovits_server.py --count 4 --delay 0.02`.
"""

import argparse
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

import numpy as np

RATES = {"v1": 32_000, "v2": 32_000, "v2Pro": 32_000, "v2ProPlus": 32_000, "v3": 24_000, "v4": 48_000}
LANGUAGES = {"auto", "en", "zh", "ja", "all_zh", "all_ja", "auto_yue", "yue", "ko", "all_yue", "all_ko"}
TAIL = 0.3  # s of silence after every sentence
FAULTS = (  # every way to fail that is not a mistake of the request
    "silent second", "silent", "cut", "cut wav", "empty", "not audio", "stereo", "no words", "rejected",
    "unprocessable", "crash", "busy", "wrong rate", "reference", "unloaded",
    "half", "early stop", "twice", "runaway", "quiet", "clipped", "offset", "hum", "late", "long tail",
    "gap", "same bytes",
)  # fmt: skip


class Play(NamedTuple):
    """What becomes of a request: speech, or one of FAULTS, or a hang, after a delay."""

    kind: str = "speech"
    delay: float = 0.0  # s
    seconds: float | None = None  # of speech; None: as the text needs


def speech(text, seconds, rate, seed=0):
    """Sound with the envelope of speech, four syllables a second, and the server's silence at the end."""
    samples = np.concatenate([np.resize(_syllables(rate), int(seconds * rate)), np.zeros(int(TAIL * rate), np.int16)])
    mark = crc32(f"{text} {seed}".encode()) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)
    samples[:32] = list(b"%032x" % mark)  # nothing to hear, but equal bytes are equal text and seed
    return samples


@cache
def _syllables(rate):
    time_ = np.arange(2 * rate) / rate
    voiced = sum(np.sin(2 * np.pi * 130 * k * time_) / k for k in range(1, 6))
    envelope = np.sin(np.pi * (4 * time_ % 1)) ** 2 * (0.6 + 0.4 * np.sin(2 * np.pi * 0.5 * time_))
    return (7000 * voiced * envelope).astype(np.int16)


def wav(samples, rate, channels=1):
    data = samples.astype("<i2", copy=False).tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + form + b"data" + struct.pack("<I", len(data)) + data


class Server:
    """One server on a port of this machine; a context manager. `stop` and `start` keep the port."""

    def __init__(self, rule=None, *, delay=0.0, seconds=None, model="v2", weights=None):
        self.rule = rule or (lambda body, number: Play())
        self.delay, self.seconds, self.model = delay, seconds, model
        self.weights = weights  # names that can be loaded; None: all
        self.asked = []  # bodies of requests for speech, in order of arrival
        self.loaded = []  # weights, in order
        self.probed = 0
        self.at_once = self.most_at_once = 0  # requests inside, those that wait included
        self.busy = 0.0  # s of work
        self.unloaded = self.remembers_bad_weights = False
        self.last = None  # the last speech, which "same bytes" repeats
        self.port = 0
        self._counts = threading.Lock()
        self._loop = threading.Lock()  # the event loop: blocked while it speaks

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self._leave = threading.Event()
        self._http = _Http(("127.0.0.1", self.port), _Handler)
        self._http.server = self
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def stop(self):
        """Gone, in the middle of whatever it did."""
        self._leave.set()
        self._http.shutdown()
        self._http.hang_up()
        self._http.server_close()
        self._thread.join()
        self.at_once = 0

    def restart(self):
        """As /control?command=restart: models are loaded anew."""
        self.stop()
        self.unloaded = self.remembers_bad_weights = False
        self.start()

    __enter__ = start

    def __exit__(self, *_):
        self.stop()

    @contextmanager
    def inside(self):
        with self._counts:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            with self._loop:
                began = time.perf_counter()
                yield
                self.busy += time.perf_counter() - began
        finally:
            with self._counts:
                self.at_once -= 1

    def asleep(self, seconds):
        """Sleeps as work would; wakes only when the server ends."""
        if seconds > 0 and self._leave.wait(seconds):
            raise ConnectionResetError


def expected(text):
    """Seconds of speech: three letters or one hanzi a syllable, four and a half syllables a second."""
    return 0.3 + sum(1.0 if ord(char) > 0x3000 else 1 / 3 for char in text if char.isalnum()) / 4.5


class _Http(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, *args):
        super().__init__(*args)
        self.sockets = set()

    def process_request(self, request, client_address):
        self.sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.sockets.discard(request)
        super().shutdown_request(request)

    def hang_up(self):
        for one in list(self.sockets):
            with suppress(OSError):
                one.shutdown(2)

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    @property
    def sovits(self):
        return self.server.server

    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self.sovits.inside():
            if parts.path in {"/openapi.json", "/docs", "/v1/models"}:
                self.sovits.probed += 1
                self.json(200, {"openapi": "3.1.0"})
            elif parts.path == "/counts":
                counts = {
                    "asked": len(self.sovits.asked),
                    "at once": self.sovits.most_at_once,
                    "busy": self.sovits.busy,
                }
                self.json(200, counts)
            elif parts.path in {"/set_gpt_weights", "/set_sovits_weights"}:
                self.set_weights(parts.path.split("_")[1], query.get("weights_path", ""))
            elif parts.path == "/set_refer_audio":
                self.json(200, {"message": "success"})
            else:
                self.json(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        with self.sovits.inside():
            if self.path == "/tts":
                self.tts(body)
            elif self.path == "/":
                self.tts_v1(body)
            elif self.path == "/v1/audio/speech":
                self.tts_openai(body)
            elif self.path == "/set_model":
                self.set_model(body.get("gpt_model_path"), body.get("sovits_model_path"))
            else:
                self.json(405, {"detail": "Method Not Allowed"})

    # --- routes

    def known(self, path):
        return self.sovits.weights is None or path in self.sovits.weights

    def set_weights(self, kind, path):
        if not path:
            self.json(400, {"message": f"{kind} weight path is required"})
        elif not self.known(path):
            self.sovits.remembers_bad_weights = True
            self.json(
                400,
                {
                    "message": f"change {kind} weight failed",
                    "Exception": f"[Errno 2] No such file or directory: '{path}'",
                },
            )
        else:
            self.sovits.loaded.append(path)
            self.json(200, {"message": "success"})

    def set_model(self, *paths):
        if bad := [path for path in paths if not self.known(path)]:
            return self.json(400, {"code": 400, "message": f"[Errno 2] No such file or directory: {bad}"})
        self.sovits.loaded += paths
        return self.json(200, {"code": 0, "message": "Success"})

    def tts(self, body):
        """The order of the checks and their messages are those of api_v2.py."""
        if not body.get("ref_audio_path"):
            return self.json(400, {"message": "ref_audio_path is required"})
        if not body.get("text"):
            return self.json(400, {"message": "text is required"})
        for field in ("text_lang", "prompt_lang"):
            if not body.get(field):
                return self.json(400, {"message": f"{field} is required"})
            if body[field].lower() not in LANGUAGES:
                message = f"{field}: {body[field]} is not supported in version {self.sovits.model}"
                return self.json(400, {"message": message})
        if body.get("media_type", "wav") not in {"wav", "raw", "ogg", "aac"}:
            return self.json(400, {"message": f"media_type: {body['media_type']} is not supported"})
        if body["text_lang"] != body["text_lang"].lower():
            return self.failed("")
        if not -1 <= body.get("seed", -1) < 1 << 32:
            return self.failed("Seed must be between 0 and 2**32 - 1")
        if not body.get("prompt_text") and self.sovits.model in {"v3", "v4"}:
            return self.failed(f"prompt_text cannot be empty when using SoVITS_{self.sovits.model.upper()}")
        if self.sovits.unloaded:
            return self.failed("'NoneType' object has no attribute 'model'")
        if body.get("batch_size", 1) < 1:
            return self.sovits.asleep(1e6)
        if "missing" in body["ref_audio_path"]:
            return self.failed(f"{body['ref_audio_path']} not exists")
        if "long" in body["ref_audio_path"]:
            return self.failed("Reference audio is outside the 3-10 second range, please choose another one!")
        return self.play(body, body["text"], body.get("seed", 0))

    def failed(self, exception):
        return self.json(400, {"message": "tts failed", "Exception": exception})

    def tts_v1(self, body):
        if not all(body.get(field) for field in ("refer_wav_path", "prompt_text", "prompt_language")):
            return self.json(400, {"code": 400, "message": "未指定参考音频且接口无预设"})
        if body.get("text_language", "").lower() not in LANGUAGES or "missing" in body["refer_wav_path"]:
            return self.broken_stream()
        if not any(map(str.isalnum, body["text"])):
            return self.chunked(wav(np.zeros(0), RATES[self.sovits.model]))
        return self.play(body, body["text"], 0)

    def tts_openai(self, body):
        if body.get("model") == "secret" and self.headers.get("authorization") != "Bearer sesame":
            return self.json(401, {"error": {"message": "Incorrect API key provided"}})
        return self.play(body, body["input"], len(self.sovits.asked))

    def play(self, body, text, seed):
        server = self.sovits
        until = time.monotonic()
        server.asked.append(body)
        kind, delay, seconds = server.rule(body, len(server.asked) - 1)
        until += delay or server.delay
        rate = RATES[server.model]
        seconds = seconds or (server.seconds - TAIL if server.seconds else expected(text))
        samples = speech(text, seconds, rate, seed)
        whole = wav(samples, rate)
        server.asleep(until - time.monotonic())
        if kind == "same bytes" and server.last:
            return self.audio(server.last)
        if kind in {"speech", "same bytes"}:
            server.last = whole
            return self.audio(whole)
        words = samples[: -int(TAIL * rate)]
        half = len(words) // 2

        def silence(seconds):
            return np.zeros(int(seconds * rate), np.int16)

        wrong = {
            "silent": lambda: silence(len(words) / rate),
            "half": lambda: words[:half],
            "early stop": lambda: np.concatenate([words[:half], silence(TAIL)]),
            "twice": lambda: np.concatenate([words, silence(0.2), words, silence(TAIL)]),
            "runaway": lambda: np.resize(words, 60 * rate),
            "quiet": lambda: samples / 100,
            "clipped": lambda: np.clip(samples * 12.0, -32768, 32767),
            "offset": lambda: samples + np.int16(1000),
            "hum": lambda: 5000 * np.sin(np.arange(len(words)) * 0.02),
            "rustle": lambda: samples.astype(np.float64) * np.random.default_rng(seed).normal(0, 0.5, len(samples)),
            "late": lambda: np.concatenate([silence(1.1), samples]),
            "long tail": lambda: np.concatenate([samples, silence(1.0)]),
            "gap": lambda: np.concatenate([words[:half], silence(1.6), words[half:], silence(TAIL)]),
        }
        if kind in wrong:
            return self.audio(wav(wrong[kind](), rate))
        if kind == "hang":
            return server.asleep(1e6)
        if kind == "silent second":
            if body.get("streaming_mode"):
                server.unloaded = server.remembers_bad_weights
                return self.broken_stream()
            return self.audio(wav(np.zeros(16_000), 16_000))
        if kind == "cut":
            return self.audio(whole, send=0.6)
        if kind == "cut wav":
            return self.audio(whole[: len(whole) * 6 // 10])
        if kind == "broken stream":
            return self.broken_stream()
        if kind == "open wav":  # lengths that are not known when the header is sent
            return self.audio(whole[:4] + b"\xff\xff\xff\xff" + whole[8:40] + b"\xff\xff\xff\xff" + whole[44:])
        if kind == "empty":
            return self.audio(wav(np.zeros(0), rate))
        if kind == "not audio":
            return self.json(200, {"message": "success"})
        if kind == "stereo":
            return self.audio(wav(np.repeat(samples, 2), rate, channels=2))
        if kind == "wrong rate":
            return self.audio(wav(samples[::2], rate // 2))
        if kind == "no words":
            return self.failed("Please enter valid text.")
        if kind == "rejected":
            return self.failed("File is not a zip file")
        if kind == "reference":
            return self.failed(f"{body.get('ref_audio_path')} not exists")
        if kind == "unloaded":
            return self.failed("'NoneType' object has no attribute 'model'")
        if kind == "unprocessable":
            return self.json(422, {"detail": [{"type": "string_type", "msg": "Input should be a valid string"}]})
        assert kind in {"crash", "busy"}, kind
        return self.answer(500 if kind == "crash" else 503, "text/plain", b"Internal Server Error")

    # --- answers

    def json(self, status, page):
        self.answer(status, "application/json", json.dumps(page, ensure_ascii=False).encode())

    def audio(self, body, send=1.0):
        if self.path == "/" and send == 1.0:
            return self.chunked(body)
        self.answer(200, "audio/wav", body, int(len(body) * send))
        if send < 1.0:
            self.close_connection = True
        return None

    def answer(self, status, kind, body, send=None):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:send])
        self.wfile.flush()

    def chunked(self, body, end=True):
        self.send_response(200)
        self.send_header("content-type", "audio/wav")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if body:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        self.wfile.write(b"0\r\n\r\n" if end else b"")
        self.wfile.flush()

    def broken_stream(self):
        """200, an empty body, the connection cut in mid-chunk."""
        self.chunked(b"", end=False)
        self.close_connection = True


class Quick:
    """The same protocol with next to no work: a clip made beforehand, after a delay. No faults, POST /tts alone.

    `http.server` takes 0.6 CPU-ms for an answer, which a client on the same two cores would have to wait for.
    """

    def __init__(self, *, delay=0.0, seconds=2.5, model="v2"):
        self.delay, self.asked = delay, 0
        self.sound = bytearray(wav(speech("", seconds - TAIL, RATES[model]), RATES[model]))
        self._loop = threading.Lock()

    def start(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    @property
    def url(self):
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def stop(self):
        self._socket.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            while asked := lines.readline():
                until, length = time.monotonic() + self.delay, 0
                while (line := lines.readline()) not in {b"\r\n", b""}:
                    if line[:15].lower() == b"content-length:":
                        length = int(line[15:])
                body = lines.read(length)
                if asked.startswith(b"POST /tts "):
                    self._speak(connection, json.loads(body), until)
                else:
                    page = json.dumps({"asked": self.asked}).encode()
                    connection.sendall(_HEAD % (b"application/json", len(page)) + page)

    def _speak(self, connection, body, until):
        with self._loop:
            self.asked += 1
            mark = crc32(f"{body['text']} {body.get('seed', 0)}".encode()) * 0x9E3779B97F4A7C15F39CC0605CEDC835
            self.sound[44:108] = np.frombuffer(b"%032x" % (mark % (1 << 128)), np.uint8).astype("<i2").tobytes()
            if (left := until - time.monotonic()) > 0:
                time.sleep(left)
            connection.sendmsg([_HEAD % (b"audio/wav", len(self.sound))], [], socket.MSG_MORE)
            connection.sendall(self.sound)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"


@contextmanager
def elsewhere(count, *, delay=0.0, seconds=2.5, quick=False):
    """The URLs of servers in a process of their own, so that their work is not counted as the client's."""
    words = [sys.executable, __file__, "--count", str(count), "--delay", str(delay), "--seconds", str(seconds)]
    words += ["--quick"] * quick
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()  # its sign to end
            process.wait(10)


def _main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--quick", action="store_true")
    wanted = parser.parse_args()
    kind = Quick if wanted.quick else Server
    servers = [kind(delay=wanted.delay, seconds=wanted.seconds).start() for _ in range(wanted.count)]
    print(json.dumps([server.url for server in servers]), flush=True)
    sys.stdin.read()
    for server in servers:
        server.stop()


if __name__ == "__main__":
    _main()
