"""GPT-SoVITS over HTTP: `api_v2.py`, and the older `api.py` for voices that say `api: v1`.

A voice's options are the fields of `POST /tts` under the server's own names (https://github.com/RVC-Boss/GPT-SoVITS,
MIT), all checked before anything is sent, because the server is unkind: `batch_size: 0` hangs it for good, a language
in capitals fails without a word, and `api.py` takes its default voice for a reference without a transcript. Nothing is
streamed: streams mix voices, and end early without an error. Beside those fields:

    model           v1 v2 v2Pro v2ProPlus v3 v4: what the server runs; decides languages, sample rate, transcript
    api             v2 (default) or v1, the dialect
    rate            Hz, where a model of one's own differs
    gpt_weights     paths on the server: set there before the voice speaks; both or neither, and for all voices or none
    sovits_weights
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from tarsia.builders.endpoints import Answer, Link, Unwell, fault, wave_of
from tarsia.builders.evidence import seconds_of
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Refused
from tarsia.schemas.model import Model
from tarsia.schemas.voice import Voice

RATES = {"v1": 32_000, "v2": 32_000, "v2Pro": 32_000, "v2ProPlus": 32_000, "v3": 24_000, "v4": 48_000}  # Hz
SUPER_RATE = 48_000  # Hz, of v3 with super_sampling
LANGUAGES = ("auto", "en", "zh", "ja", "all_zh", "all_ja")
LANGUAGES_SINCE_V2 = (*LANGUAGES, "auto_yue", "yue", "ko", "all_yue", "all_ko")
REFERENCE = 3.0, 10.0  # s, both allowed
SEEDS = 1 << 32
LOADING = 180.0  # s for new weights; ours
PATIENCE = 60.0  # s besides the work itself: another's request that is still running, the first of a reference; ours
PER_SECOND = 6.0  # s of waiting for each second of expected speech: ten times an M4's processor (0.526); ours

_WORDS = re.compile(r"[^\W_]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ\d]")
_CUTS_V1 = {"cut0": "", "cut3": "。", "cut4": ".", "cut5": ",.;?!、，。？！；：…"}  # text_split_method as cut_punc
_STEPS_V1 = (4, 8, 16, 32)  # others become 32 without a word
_ONLY_V2 = (
    "batch_size",
    "batch_threshold",
    "split_bucket",
    "fragment_interval",
    "parallel_infer",
    "repetition_penalty",
    "overlap_length",
    "min_chunk_length",
)
_OURS = {"voice", "text", "seed"}  # no options
_UNLOADED = "it lost its models after bad weights and needs a restart (GET /control?command=restart)"
_SIGNS = (  # of a 400, and what it means
    ("reference", ("3-10 second", "3~10秒", "not exists", "ref_audio_path is required", "未指定参考音频")),
    ("prompt", ("prompt_text cannot be empty",)),
    ("language", ("is not supported in version",)),
    ("weights", ("weight failed", "weight path is required")),
    ("unloaded", ("'NoneType' object has no attribute",)),
)
_NO_WORDS = ("Please enter valid text", "请输入有效文本", "text is required")


def _lines(value: Any) -> Any:
    return tuple(line for line in value.splitlines() if line) if isinstance(value, str) else value


class Request(Model):
    """One `POST /tts`. Defaults are the server's; the seed has none, so that every clip can be asked for again."""

    voice: str = Field(exclude=True)
    model: Literal["v1", "v2", "v2Pro", "v2ProPlus", "v3", "v4"] = Field(exclude=True)
    api: Literal["v1", "v2"] = Field(default="v2", exclude=True)
    rate: int = Field(default=0, ge=0, exclude=True)  # Hz; 0: the model's
    gpt_weights: str = Field(default="", exclude=True)
    sovits_weights: str = Field(default="", exclude=True)

    text: str
    text_lang: str
    ref_audio_path: str = Field(min_length=1)  # on the server's disk
    aux_ref_audio_paths: Annotated[tuple[str, ...], BeforeValidator(_lines)] = ()
    prompt_text: str = ""
    prompt_lang: str
    top_k: int = Field(default=15, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    text_split_method: Literal["cut0", "cut1", "cut2", "cut3", "cut4", "cut5"] = "cut5"
    batch_size: int = Field(default=1, ge=1)  # 0 hangs the server for good
    batch_threshold: float = Field(default=0.75, ge=0)
    split_bucket: bool = True
    speed_factor: float = Field(default=1.0, gt=0)
    fragment_interval: float = Field(default=0.3, ge=0)
    seed: int = Field(ge=-1, lt=SEEDS)
    media_type: Literal["wav"] = "wav"
    streaming_mode: Literal[False] = False
    parallel_infer: bool = True
    repetition_penalty: float = Field(default=1.35, gt=0)
    sample_steps: int = Field(default=32, ge=1)
    super_sampling: bool = False
    overlap_length: int = Field(default=2, ge=0)
    min_chunk_length: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _speakable(self) -> Self:
        known = LANGUAGES if self.model == "v1" else LANGUAGES_SINCE_V2
        for field in ("text_lang", "prompt_lang"):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} '{getattr(self, field)}' is none of model {self.model}: {', '.join(known)}")
        if not self.prompt_text and (self.model in {"v3", "v4"} or self.api == "v1"):
            raise ValueError(f"prompt_text: model {self.model} on api {self.api} needs the transcript of the reference")
        if bool(self.gpt_weights) != bool(self.sovits_weights):
            raise ValueError("gpt_weights and sovits_weights: give both or neither")
        if self.super_sampling and self.model != "v3":
            raise ValueError("super_sampling: only model v3 has it")
        if self.api == "v1":
            self._fits_v1()
        if not (_LATIN if self.text_lang == "en" else _WORDS).search(self.text):
            raise Refused("no-words", f"nothing in '{self.text[:40]}' can be said in '{self.text_lang}'")
        return self

    def _fits_v1(self) -> None:
        fields = type(self).model_fields
        for field in _ONLY_V2:
            if getattr(self, field) != fields[field].default:
                raise ValueError(f"{field}: api v1 has no such thing")
        if self.text_split_method not in _CUTS_V1:
            raise ValueError(f"text_split_method: api v1 has {', '.join(_CUTS_V1)}")
        if self.sample_steps not in _STEPS_V1:
            raise ValueError(f"sample_steps: api v1 has {', '.join(map(str, _STEPS_V1))}")

    @property
    def setting(self) -> tuple[str, ...]:
        """What is kept on the server from one request to the next, the costliest first."""
        return self.gpt_weights, self.sovits_weights, self.ref_audio_path, self.prompt_text, *self.aux_ref_audio_paths

    @property
    def expected_rate(self) -> int:
        """Hz of a true answer."""
        return self.rate or (SUPER_RATE if self.super_sampling else RATES[self.model])

    def seeded(self, seed: int) -> Self:
        """The same with another seed."""
        return self.model_copy(update={"seed": seed})

    def body(self) -> dict[str, Any]:
        """What is sent, in the voice's dialect."""
        if self.api == "v2":
            return self.model_dump()
        return {
            "text": self.text,
            "text_language": self.text_lang,
            "refer_wav_path": self.ref_audio_path,
            "prompt_text": self.prompt_text,
            "prompt_language": self.prompt_lang,
            "cut_punc": _CUTS_V1[self.text_split_method],
            "top_k": self.top_k,
            "top_p": self.top_p,
            "temperature": self.temperature,
            "speed": self.speed_factor,
            "inp_refs": list(self.aux_ref_audio_paths),
            "sample_steps": self.sample_steps,
            "if_sr": self.super_sampling,
        }


def version() -> str:
    """What of this file the sound depends on: the defaults that are sent. The models are told by the voice."""
    return "gpt-sovits 1"


def request(voice: Voice, spoken: str, *, seed: int = 0) -> Request:
    """The request for a text in a voice; `BadVoices` if the options are wrong, `Refused` if there is nothing to say."""
    fields: Mapping[str, Any] = {"text_lang": voice.language, **voice.options}
    if strange := _OURS & voice.options.keys():
        raise BadVoices(f"voice '{voice.name}': {min(strange)}: no such option")
    try:
        return Request.model_validate({**fields, "voice": voice.name, "text": spoken, "seed": seed})
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        said = "no such option" if wrong["type"] == "extra_forbidden" else wrong["msg"].removeprefix("Value error, ")
        raise BadVoices(f"voice '{voice.name}': {place}{': ' if place else ''}{said}") from error


def check(voice: Voice) -> bool:
    """Checks the voice's reference clip if a file of its name is here too; whether there is one."""
    path = Path(voice.options.get("ref_audio_path", ""))
    if path.is_file():
        check_reference(path)
    return path.is_file()


def check_reference(path: Path) -> None:
    """`BadVoices` if our copy of a reference clip would be turned away, or be no speech."""
    import soundfile

    from tarsia.builders.evidence import sound_of

    try:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadVoices(f"reference {path}: cannot be read: {error}") from error
    seconds = len(samples) / rate
    if not REFERENCE[0] <= seconds <= REFERENCE[1]:
        raise BadVoices(f"reference {path}: {seconds:.2f} s; the server takes {REFERENCE[0]:g} to {REFERENCE[1]:g} s")
    try:
        sound_of(Wave(samples[:, 0], rate))
    except Refused as refused:
        raise BadVoices(f"reference {path}: {refused}") from refused


def patience(request: Request) -> float:
    """How long to wait for an answer, in seconds: an abandoned request still occupies its server, so rather long."""
    return PATIENCE + PER_SECOND * seconds_of(request.text) / min(1.0, request.speed_factor)


def say(link: Link, request: Request, seconds: float) -> Wave:
    """The text as that voice speaks it, on evidence; `Refused` if it cannot be spoken, else `Unwell`."""
    _set_weights(link, request)
    answer = link.ask("POST", "/tts" if request.api == "v2" else "/", body=request.body(), seconds=seconds)
    if answer.status != 200:
        raise _fault(answer)
    wave = wave_of(answer)
    if wave.rate != request.expected_rate:
        raise Unwell("rate", f"{wave.rate} Hz, where model {request.model} speaks at {request.expected_rate} Hz")
    return wave


def probe(link: Link, seconds: float) -> None:
    """Nothing if a GPT-SoVITS answers. It has no health route, and answers none at all while it speaks."""
    answer = link.ask("GET", "/openapi.json", seconds=seconds)
    if answer.status == 404:  # documentation is switched off
        answer = link.ask("POST", "/tts", body={}, seconds=seconds)
    if answer.status in {404, 405} or answer.status >= 500:
        raise _fault(answer)


def _set_weights(link: Link, request: Request) -> None:
    wanted = request.gpt_weights, request.sovits_weights
    if link.holds == wanted:
        return
    if not any(wanted):
        if link.holds is None:
            return
        raise BadVoices(f"voice '{request.voice}' names no weights, but others of its pool do: name them for all")
    link.holds = ()  # until both are set, nobody knows
    if request.api == "v1":
        body = {"gpt_model_path": wanted[0], "sovits_model_path": wanted[1]}
        answers = [link.ask("POST", "/set_model", body=body, seconds=LOADING)]
    else:
        answers = [
            link.ask("GET", f"/set_{kind}_weights", query={"weights_path": path}, seconds=LOADING)
            for kind, path in zip(("gpt", "sovits"), wanted, strict=True)
        ]
    for answer in answers:
        if answer.status != 200:
            raise _fault(answer) if answer.status != 400 else Unwell("weights", answer.said)
    link.holds = wanted


def _fault(answer: Answer) -> Refused | Unwell:
    """What an answer other than 200 means."""
    unwell = fault(answer, "is this the dialect that the option 'api' says?")
    if unwell.code != "rejected":
        return unwell
    said = unwell.message
    if any(sign in answer.said for sign in _NO_WORDS):
        return Refused("no-words", said)
    for code, signs in _SIGNS:
        if any(sign in answer.said for sign in signs):
            return Unwell(code, f"{said}: {_UNLOADED}" if code == "unloaded" else said)
    return unwell
