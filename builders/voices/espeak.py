"""eSpeak NG inside the process: Mandarin and English, always there, intelligible rather than natural.

Equal words must give equal bytes, and eSpeak does not promise it. Its place in the pitch flutter table, its count of
glottal cycles (roughness), its random numbers (breath) and its filters run on from call to call, and
`espeak_Terminate` forgets none of them but the random numbers, which it sets by the clock. So every call gets an
engine that has never spoken: the library is written to a memory file, which the loader takes for a new library and
maps anew, and is unloaded afterwards. Nothing is shared, so threads need no lock and other users of eSpeak in this
process stay undisturbed. Measured, 1000 shuffled calls on 139 texts of 2.9 s in eleven voices, CPU-ms a call:

    one engine, seed set before every call          3.0   139 of 139 texts waver, 107 of them in length
    one engine, ended and started for every call    4.4   139 of 139
    flutter and roughness taken out of the voices   3.1   2 of 139, and these are other voices
    a forked child for every call                   5.6   none; 22 in a process of 1 GB
    a new engine for every call: this file          3.9   none, in all processes and threads
"""

import _ctypes
import ctypes
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, MissingExtra, UnknownName

RATE = 22050  # Hz, of every voice below
VOICES = {  # of each language, the first one speaks unless another is chosen
    "en": {
        "en-us": "gmw/en-US",
        "en-gb": "gmw/en",
        "en-gb-scotland": "gmw/en-GB-scotland",
        "en-gb-x-rp": "gmw/en-GB-x-rp",
        "en-029": "gmw/en-029",  # Caribbean
    },
    "zh": {"cmn": "sit/cmn"},
}
_HAN = "〇㐀-䶿一-鿿豈-﫿𠀀-𳑿"
_LATIN = "A-Za-zÀ-ÖØ-öø-ɏＡ-Ｚａ-ｚ"
_PIECE = re.compile(f"[^{_LATIN}]*[{_HAN}][^{_LATIN}]*|[^{_HAN}]+")
_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1  # of speak_lib.h
_OK = 0
_Listener = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def speak(spoken: str, *, language: str, options: Mapping[str, str]) -> Wave:
    """The text spoken by `options["voice"]`: a voice's name, with or without a variant, as in `en-us+f3`.

    The voice speaks the words of its own language; words in the other script are left to that language's first
    voice, in the same variant. Nothing is trimmed: a text without words gives a few silent samples or none.
    """
    voices = _voices(options)
    if language not in voices:
        raise UnknownName("language of eSpeak", language, voices)
    heard = bytearray()
    for words in _PIECE.findall(spoken):
        _say(words, *voices[_script(words) or language], heard)
    return Wave(np.frombuffer(heard, dtype=np.int16), RATE)


def version() -> str:
    """The engine's version and that of the package its voices came in."""
    _data()
    with _engine() as engine:
        engine.espeak_Info.restype = ctypes.c_char_p
        return f"espeak-ng {engine.espeak_Info(None).decode()}, espeakng-loader {installed('espeakng-loader')}"


def _script(words: str) -> str | None:
    if re.search(f"[{_HAN}]", words):
        return "zh"
    return "en" if re.search(f"[{_LATIN}]", words) else None


def _voices(options: Mapping[str, str]) -> dict[str, tuple[Path, str]]:
    """For each language the file of its voice, and the variant."""
    if strange := options.keys() - {"voice"}:
        raise UnknownName("option of an eSpeak voice", min(strange), ["voice"])
    known = {name for names in VOICES.values() for name in names}
    chosen, _, variant = options.get("voice", "").partition("+")
    if chosen and chosen not in known:
        raise UnknownName("eSpeak voice", chosen, known)
    if variant and variant not in _variants():
        raise UnknownName("variant of an eSpeak voice", variant, _variants())
    return {
        language: (_data() / "lang" / names.get(chosen, next(iter(names.values()))), variant)
        for language, names in VOICES.items()
    }


@cache
def _variants() -> frozenset[str]:
    """The variants that can be promised: a `klatt 6` takes its noise from C's rand(), which anyone may call."""
    files = (_data() / "voices" / "!v").iterdir()
    return frozenset(file.name for file in files if not re.search(rb"(?m)^\s*klatt\s+6", file.read_bytes()))


@cache
def _data() -> Path:
    if sys.platform != "linux":
        raise BadVoices("the engine 'espeak' runs on Linux only: elsewhere a library cannot be loaded from memory")
    try:
        import espeakng_loader
    except ImportError as absent:
        raise MissingExtra("espeakng-loader", "speech") from absent
    return Path(espeakng_loader.get_data_path())


@cache
def _library() -> bytes:
    import espeakng_loader

    return Path(espeakng_loader.get_library_path()).read_bytes()


@contextmanager
def _engine() -> Iterator[ctypes.CDLL]:
    """The library as it is before its first call."""
    with os.fdopen(os.memfd_create("espeak-ng"), "wb") as copy:
        copy.write(_library())
        copy.flush()
        engine = ctypes.CDLL(f"/proc/self/fd/{copy.fileno()}")
        try:
            yield engine
        finally:
            _ctypes.dlclose(engine._handle)


def _say(words: str, voice: Path, variant: str, heard: bytearray) -> None:
    def listen(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            heard.extend(ctypes.string_at(samples, 2 * count))
        return 0

    listener = _Listener(listen)
    text = words.replace("\0", " ").encode() + b"\0"
    with _engine() as engine, _short(_data()) as data, _short(voice) as file:
        home = ctypes.c_char_p()
        engine.espeak_Info(ctypes.byref(home))
        assert not home.value, "this engine has spoken before"
        # 0: buffers of the default length; another length gives other bytes. Sets the process's LC_CTYPE to C.UTF-8.
        if engine.espeak_Initialize(_SYNCHRONOUS, 0, data, _DO_NOT_EXIT) != RATE:
            raise BadVoices(f"eSpeak cannot read its data: {_data()}")
        engine.espeak_ng_SetRandSeed(ctypes.c_long(0))
        engine.espeak_SetSynthCallback(listener)
        # by file, for by name it reads all its voices, 1 ms, and leaks their list, 2 kB
        chosen = engine.espeak_ng_SetVoiceByFile(file + f"+{variant}".encode() if variant else file)
        spoken = engine.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _UTF8, None, None)
        engine.espeak_Terminate()
    assert (chosen, spoken) == (_OK, _OK), (voice, variant, words)


@contextmanager
def _short(path: Path) -> Iterator[bytes]:
    """Another name of a path: eSpeak cuts its data's at 160 bytes, cuts a voice's at 60 and makes it lower case."""
    opened = os.open(path, os.O_RDONLY)
    try:
        yield b"/proc/self/fd/%d" % opened
    finally:
        os.close(opened)
