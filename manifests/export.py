r"""Export: the samples of a stage in the words of other trainers' own files.

    vita-1.0    one JSON array: `set`, `id`, `conversations`, `image`, `video`, `audio`, `inserted_id`
    vita-1.5    the same; its loader looks at three frames of a video a second instead of one
    vita-audio  JSON Lines: `messages`, `images`, `videos`, `audios`
    long-vita   the same without sound

What the loaders do with a record was read in their code (https://github.com/VITA-MLLM/VITA, vita/util, and
https://github.com/VITA-MLLM/VITA-Audio). They check little: what they would get wrong in silence is left out here, with
a reason. States, system prompts and the interleaving of text and sound are theirs to add, and are not written.

Media are named by their content, so that one lies there once, however many records show it:

    images/<dd>/<digest>.jpg      as the lake has them
    videos/<dd>/<digest>.mp4      the file itself where the lake has it, else an AVI of the frames that the plan counts
    audio/<dd>/<digest>.wav       16 bits, mono; resampled where a loader needs 16 kHz (<digest>-16k.wav)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from tarsia.builders.audio import decode_at, encode_wav, flac_length
from tarsia.builders.chat import as_heard, as_met
from tarsia.builders.samples import RATE
from tarsia.builders.storage import Store
from tarsia.builders.tokens import frame_positions
from tarsia.builders.video import joined
from tarsia.manifests.context import InShards, Missing, Streamed
from tarsia.manifests.places import Places
from tarsia.manifests.ranges import PREFETCH, Ranges
from tarsia.schemas.errors import Corrupt, Refused
from tarsia.schemas.identity import digest
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.recipe import Context
from tarsia.schemas.sample import AUDIO, IMAGE, VIDEO, Kind, Turn, VideoFacts

Make = Callable[[], bytes]
Record = dict[str, Any]


class Told(NamedTuple):
    """A sample with its media as files: paths below the export, in the order of their placeholders."""

    key: str
    corpus: str
    kind: Kind
    turns: list[Turn]
    images: list[str]
    videos: list[str]
    audios: list[str]
    media: dict[str, Make]  # what makes the bytes of each


class Dialect(Protocol):
    """How one trainer wants its file."""

    @property
    def suffix(self) -> str:
        """Of the file's name."""

    @property
    def brackets(self) -> tuple[bytes, bytes, bytes]:
        """What stands before the first record, between two, after the last."""

    @property
    def rate(self) -> int | None:
        """Of sound, in Hz, if not its own."""

    @property
    def fps(self) -> int:
        """Of videos that are made of frames."""

    def refusal(self, told: Told) -> str | None:
        """Why a sample cannot be said, if it cannot."""

    def record(self, told: Told, root: str) -> Record:
        """What is written of a sample; the export will be found at `root`."""

    @property
    def together(self) -> Callable[[Sequence[Told]], list[Record]] | None:
        """What is written of a context as one long conversation; None where the trainer packs by itself."""

    def configuration(self, stage: str, corpora: Sequence[str], root: str) -> tuple[str, str]:
        """The name of a page that leads the trainer to the records, and the page."""


# --- a sample -------------------------------------------------------------------------------------------------------


def contexts(store: Store, manifest: Manifest, first: int, last: int) -> Iterator[tuple[int, list[Streamed]]]:
    """Contexts `first` to `last` - 1 with all their media, read ahead. `Corrupt` where a sample is not what it was."""
    places, layout, ranges = Places(store, manifest), InShards(store, manifest, originals=True), Ranges(store)
    asked = ((number, places.context(number).samples) for number in range(first, last))
    wanted = ((one, layout.spans(*one)) for one in asked)
    for (number, mine), parts in ranges.ahead(wanted, PREFETCH, layout.haul):
        found, _ = layout.samples(number, mine, layout.spans(number, mine), parts, ranges.again)
        for one in found:
            if isinstance(one, Missing):
                raise Corrupt(one.why)
        yield number, [one for one in found if isinstance(one, Streamed)]


def tell(part: Streamed, settings: Context, dialect: Dialect) -> Told:
    """A placed sample as it is trained on, its sounds at the rate of the dialect."""
    sample, media = part.sample, dict[str, Make]()
    spoken = settings.model_copy(update={"interleave": ()})  # loaders put the words before the sound themselves
    turns = as_heard(as_met(sample.conversations, sample.kind, sample.language, spoken), part.asked)

    def keep(path: str, make: Make) -> str:
        media[path] = make
        return path

    def as_is(folder: str, name: str, member: str) -> tuple[str, Make]:
        return _path(folder, name, member.rsplit(".", 1)[-1]), partial(part.media.__getitem__, member)

    images = [keep(*as_is("images", image.digest, image.member)) for image in sample.images]
    videos = [
        keep(*as_is("videos", video.original.digest, video.original.member))
        if video.original
        else keep(*_frames(part, video, settings, dialect.fps))
        for video in sample.videos
    ]
    audios = [keep(*_audio(flac, sample.key, dialect.rate)) for flac in _sounds(part, turns)]
    return Told(sample.key, sample.corpus, sample.kind, turns, images, videos, audios, media)


def _path(folder: str, name: str, extension: str) -> str:
    return f"{folder}/{name[:2]}/{name}.{extension}"


def _sounds(part: Streamed, turns: Sequence[Turn]) -> Iterator[bytes]:
    """FLAC by FLAC as the conversation has them: what was recorded, and what a voice has made in its stead."""
    recorded, question = iter(part.sample.audios), -1
    for turn in turns:
        question += turn.speaker == "human"
        for _ in range(turn.text.count(AUDIO)):
            if turn.speaker == "human" and question in part.asked:
                yield part.heard[question]
            elif part.sample.audios:
                yield part.media[next(recorded).member]
            else:  # the answer that text-to-speech asks for
                yield part.heard[0]


def _audio(flac: bytes, key: str, rate: int | None) -> tuple[str, Make]:
    try:
        own = flac_length(flac)[1]
    except Refused as refused:
        raise Corrupt(f"sample {key}: its sound cannot be decoded: {refused.message}") from None
    wanted, name = rate or own, digest(flac)[:32]
    name = name if wanted == own else f"{name}-{wanted // 1000}k"
    return _path("audio", name, "wav"), lambda: encode_wav(decode_at(flac, wanted), wanted)


def _frames(part: Streamed, video: VideoFacts, settings: Context, fps: int) -> tuple[str, Make]:
    """The frames that the plan counts, as many a second as the loader looks at: it sees them all."""
    rule, stored = settings.frames, {frame.position: frame for frame in video.frames}
    wanted = frame_positions(video.length, video.fps, rate=rule.fps, least=rule.min, most=rule.max)
    frames = [stored[position] for position in wanted]
    name = digest("".join([*(frame.digest for frame in frames), f"-{fps}"]).encode())[:32]
    data = [part.media[frame.member] for frame in frames]
    return _path("videos", name, "avi"), lambda: joined(data, video.width, video.height, fps)


# --- VITA -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vita:
    """VITA's one JSON array a data set."""

    fps: int  # frames that its loader takes of a video a second
    suffix = "json"
    brackets = (b"[\n", b",\n", b"\n]\n")
    rate: int | None = RATE  # VITA-1.0 takes other rates for it

    def refusal(self, told: Told) -> str | None:
        """Spoken answers, and media in numbers that its placeholders cannot tell apart."""
        answers = "".join(turn.text for turn in told.turns if turn.speaker == "gpt")
        if AUDIO in answers:
            return "answer-spoken"
        if IMAGE in answers or VIDEO in answers:
            return "answer-shown"
        if any(turn.text.count(IMAGE) > 1 for turn in told.turns):
            return "images-in-turn"
        if len(told.videos) > 1:
            return "videos"
        if told.images and told.videos:
            return "image-and-video"
        if told.kind is Kind.NOISE and (len(told.turns) != 2 or not told.audios):
            return "noise-form"
        return None

    def record(self, told: Told, root: str) -> Record:
        """One conversation; of several images each has its set. The set is the corpus."""
        many = len(told.images) > 1
        record: Record = {"set": [told.corpus] * len(told.images) if many else told.corpus, "id": told.key}
        record["conversations"] = [turn.model_dump(by_alias=True) for turn in told.turns]
        if told.images:
            record["image"] = told.images if many else told.images[0]
        if told.videos:
            record["video"] = told.videos[0]
        if told.audios:
            record["audio"] = [path.removeprefix("audio/") for path in told.audios]
        if told.kind is Kind.NOISE:
            record["inserted_id"] = 1  # the turn of the answer
        return record

    @property
    def together(self) -> Callable[[Sequence[Told]], list[Record]] | None:
        """As VITA's own packer has it."""
        return self._chained

    def _chained(self, context: Sequence[Told]) -> list[Record]:
        """One long conversation. A video, and any noise but the first, has a record of its own."""
        noise = [at for at, told in enumerate(context) if told.kind is Kind.NOISE]
        alone = {*noise[1:], *(at for at, told in enumerate(context) if told.videos)}
        together = [told for at, told in enumerate(context) if at not in alone]
        records = [self.record(context[at], "") for at in sorted(alone)]
        if len(together) < 2:
            return [*(self.record(told, "") for told in together), *records]
        images = [(told.corpus, path) for told in together for path in told.images]
        record: Record = {"set": [corpus for corpus, _ in images], "id": [told.key for told in together]}
        record["conversations"] = []
        for told in together:
            if told.kind is Kind.NOISE:
                record["inserted_id"] = len(record["conversations"]) + 1
            record["conversations"] += [turn.model_dump(by_alias=True) for turn in told.turns]
        if images:
            record["image"] = [path for _, path in images]
        if audios := [path.removeprefix("audio/") for told in together for path in told.audios]:
            record["audio"] = audios
        return [record, *records]

    def configuration(self, stage: str, corpora: Sequence[str], root: str) -> tuple[str, str]:
        """Python, as VITA has its data sets: the folder of each set, and the one of all sound."""
        folders = "".join(f'    "{corpus}": ROOT,\n' for corpus in corpora)
        page = (
            f'"""Where VITA finds {stage}: see README.md."""\n\n'
            f'ROOT = "{root}"  # of the export, where the trainer runs\n\n'
            "AudioFolder = ROOT\n"
            f'Stage = {{\n    "chat_path": f"{{ROOT}}/{stage}/records.json",\n{folders}}}\n'
            f'DataConfig = {{"{stage}": [Stage]}}\n'
        )
        return "config.py", page


# --- VITA-Audio, Long-VITA ------------------------------------------------------------------------------------------

_ROLES = {"human": "user", "gpt": "assistant"}
_TAGS = {"<image>": "<|image|>", "<video>": "<|video|>", "<audio>": "<|audio|>"}
_RECOGNISE, _SAY = "Convert the speech to text.\n", "Convert the text to speech.\n"


@dataclass(frozen=True)
class Messages:
    """The JSON Lines of VITA-Audio, which asks for recognition and for synthesis in words of its own; of Long-VITA."""

    hears: bool  # VITA-Audio does, and has tags of its own for media
    suffix = "jsonl"
    brackets = (b"", b"\n", b"\n")
    rate: int | None = None
    fps: int = 1
    together = None

    def refusal(self, told: Told) -> str | None:
        """Noise, which nothing marks there, sounds that nobody hears, and what stands in an answer besides one."""
        answers = [turn.text for turn in told.turns if turn.speaker == "gpt"]
        if told.kind is Kind.NOISE:
            return "noise-unmarked"
        if told.audios and not self.hears:
            return "unheard"
        if any(IMAGE in text or VIDEO in text for text in answers):
            return "answer-shown"
        if any(text.count(AUDIO) > 1 for text in answers):
            return "answer-sounds"
        return None

    def record(self, told: Told, root: str) -> Record:
        """One conversation; its media by their whole paths, since the loaders have no folder to start from."""
        messages = [{"role": _ROLES[turn.speaker], "content": self._said(turn, told.kind)} for turn in told.turns]
        media = (("images", told.images), ("videos", told.videos), ("audios", told.audios))
        return {"messages": messages, **{name: [f"{root}/{path}" for path in paths] for name, paths in media if paths}}

    def _said(self, turn: Turn, kind: Kind) -> str:
        text = turn.text
        if not self.hears:
            return text
        if turn.speaker == "human" and kind is Kind.TTS and not text.startswith(_SAY):
            text = _SAY + text
        if turn.speaker == "human" and kind is Kind.ASR and text.strip() == AUDIO:
            text = _RECOGNISE + text
        for name, tag in _TAGS.items():
            text = text.replace(name, tag)
        return text

    def configuration(self, stage: str, corpora: Sequence[str], root: str) -> tuple[str, str]:
        """YAML, as these have their mixtures: one file, all of it, once."""
        page = (
            f"# Where the trainer finds {stage}: see README.md\n"
            "xlsx_sample_num: 5\n"
            "dataset:\n"
            f"  {stage}:\n"
            "    ratio: 1.0\n"
            f'    data_paths: ["{root}/{stage}/records.jsonl"]\n'
        )
        return "config.yaml", page


DIALECTS: dict[str, Dialect] = {
    "vita-1.0": Vita(fps=1),
    "vita-1.5": Vita(fps=3),
    "vita-audio": Messages(hears=True),
    "long-vita": Messages(hears=False),
}


def dialect_of(model: str) -> str:
    """What the trainer of a recipe's model reads: the longest name that the model's begins with, or VITA-1.5's."""
    fitting = [name for name in DIALECTS if model.startswith(name)]
    return max(fitting, key=len, default="vita-1.5")
