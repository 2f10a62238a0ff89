"""Videos as the model sees them: the frames that VITA's rules pick, as JPEG, and the facts they were picked by.

Which rule a recipe follows is decided later, so the frames of both are kept: one a second (the paper's rule, arXiv
2501.01957) and three a second (VITA-1.5's released loader), 4 to 16 frames each, at most 32 together. Frames are
counted by decoding, since headers promise what files do not hold. One thread and fixed JPEG settings give the same
bytes every time; frames are stored upright where the file says how the camera was held.

Rates are those of the container, as VITA's loaders have them, unless the frames' own times tell another tale: browsers
record WebM at "1000 frames a second". A video that ends well before the end it announces is refused, as speech is:
what is said of it is said of the whole.
"""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
from PIL import Image

from tarsia.builders.images import PIXELS, RATIO
from tarsia.builders.tokens import frame_positions
from tarsia.schemas.errors import Refused

RATES = (1, 3)  # frames a second, of the two rules
LEAST, MOST = 4, 16  # frames of either
_LIES = 0.1  # share by which a container's rate may differ from the frames' own times
_SLACK = 1.0, 0.1  # seconds, and share of its length, by which a video may end too early
_ENDINGS = {"avi": "avi", "mov": "mp4", "flv": "flv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv", "ogg": "ogv"}
_SEALED = {"protocol_whitelist": "none"}  # what calls itself a playlist must not open other files


class Still(NamedTuple):
    """One kept frame: its number in the video, its time in seconds from the first, its JPEG."""

    position: int
    seconds: float
    jpeg: bytes


class VideoClip(NamedTuple):
    """A video of `length` frames, `fps` a second, `width` x `height` pixels, and what is kept of it.

    `extension`: what a file of its container is called.
    """

    frames: list[Still]
    length: int
    fps: float
    width: int
    height: int
    extension: str


class _Promise(NamedTuple):
    """What a container says before anything is decoded: packets, frames a second, where the end is in seconds."""

    packets: int
    fps: float
    end: float
    extension: str


def read_video(data: bytes | BinaryIO, where: str) -> VideoClip:
    """The frames to store, and their facts; `Refused` if the video cannot be used.

    One pass where the container's packets are as many as its frames, which is nearly always; else a second.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        promise = _promised(file)
        wanted = _positions(promise.packets, promise.fps)
        clip = _decoded(file, wanted, promise)
        if clip.length != promise.packets:
            wanted = _positions(clip.length, promise.fps)
            clip = _decoded(file, wanted, promise)
    except av.FFmpegError as error:
        raise Refused("video-unreadable", f"{where}: {error.strerror}") from None
    except Refused as refused:
        raise Refused(refused.code, f"{where}: {refused.message}") from None
    assert [still.position for still in clip.frames] == wanted, where
    return clip


def joined(frames: Sequence[bytes], width: int, height: int, fps: int) -> bytes:
    """An AVI of stored frames as they are, `fps` a second: for those who read videos and nothing else."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mjpeg", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        for number, frame in enumerate(frames):
            packet = av.Packet(frame)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, fps), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return file.getvalue()


def _positions(length: int, fps: float) -> list[int]:
    return sorted({at for rate in RATES for at in frame_positions(length, fps, rate=rate, least=LEAST, most=MOST)})


def _promised(file: BinaryIO) -> _Promise:
    """What the container says of the video in it."""
    file.seek(0)
    with av.open(file, "r", options=_SEALED, metadata_errors="ignore") as container:
        stream = _stream(container)
        said = float(stream.average_rate or stream.guessed_rate or 0)
        times, packets = [], 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.pts is not None and packet.time_base is not None:
                times.append(float(packet.pts * packet.time_base))
        fps = _rate(said, times)
        alone = stream.duration is None and len(container.streams) == 1
        length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        length = max(length, (container.duration or 0) / av.time_base * alone, stream.frames / fps if fps else 0.0)
        return _Promise(packets, fps, min(times, default=0.0) + length, _extension(container.format.name, file))


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    """The moving pictures of a file: neither the cover of a song nor what would burst the memory."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if stream.codec_context and not stream.disposition & cover]
    if not streams:
        raise Refused("video-unreadable", "there is no picture in it")
    width, height = streams[0].codec_context.width, streams[0].codec_context.height
    if width * height > PIXELS:
        raise Refused("video-huge", f"{width} x {height} pixels")
    if min(width, height) and max(width, height) > RATIO * min(width, height):
        raise Refused("video-ratio", f"{width} x {height} is longer than {RATIO}:1")
    return streams[0]


def _rate(said: float, times: list[float]) -> float:
    """The frames a second that a container says, or that their times give where those differ."""
    span = max(times, default=0.0) - min(times, default=0.0)
    measured = round((len(times) - 1) / span, 6) if span > 0 else said
    return said if said and abs(measured / said - 1) <= _LIES else measured


def _extension(container: str, file: BinaryIO) -> str:
    if container.startswith("matroska"):
        file.seek(0)
        return "webm" if b"webm" in file.read(64) else "mkv"
    return _ENDINGS.get(container.partition(",")[0], "video")


def _decoded(file: BinaryIO, wanted: Iterable[int], promise: _Promise) -> VideoClip:
    """The wanted frames, and how many frames there are."""
    keep, stills = set(wanted), list[Still]()
    length, width, height, start, end, fps = 0, 0, 0, 0.0, 0.0, promise.fps
    file.seek(0)
    with av.open(file, "r", options=_SEALED, metadata_errors="ignore") as container:
        stream = _stream(container)
        stream.codec_context.thread_count = 1
        for position, frame in enumerate(container.decode(stream)):
            length = position + 1
            seconds = position / fps if frame.time is None else frame.time
            end = max(end, seconds + float((frame.duration or 0) * (frame.time_base or 0)))
            if position not in keep:
                continue
            if not stills:  # position 0 is always wanted
                start = seconds
            image = Image.fromarray(frame.to_ndarray(format="rgb24")).rotate(frame.rotation, expand=True)
            width, height = image.size
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=90, subsampling="4:2:0")
            stills.append(Still(position, round(seconds - start, 6), jpeg.getvalue()))
    if end < promise.end - max(_SLACK[0], _SLACK[1] * promise.end):
        raise Refused("video-truncated", f"breaks off after {end:.1f} s of {promise.end:.1f}")
    return VideoClip(stills, length, fps, width, height, promise.extension)
