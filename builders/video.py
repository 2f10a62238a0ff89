"""Videos as the model sees them: the frames that VITA's rules pick, as JPEG, and the facts they were picked by.

Which rule a recipe follows is decided later, so the frames of both are kept: one a second (the paper's rule, arXiv
2501.01957) and three a second (VITA-1.5's released loader), 4 to 16 frames each, at most 32 together. Frames are
counted by decoding, since headers promise what files do not hold. One thread and fixed JPEG settings give the same
bytes every time; frames are stored upright where the file says how the camera was held.
"""

import io
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import av
from PIL import Image

from tarsia.builders.tokens import frame_positions
from tarsia.schemas.errors import Refused

RATES = (1, 3)  # frames a second, of the two rules
LEAST, MOST = 4, 16  # frames of either
_SEALED = {"protocol_whitelist": "none"}  # what calls itself a playlist must not open other files


class Still(NamedTuple):
    """One kept frame: its number in the video, its time in seconds from the first, its JPEG."""

    position: int
    seconds: float
    jpeg: bytes


class VideoClip(NamedTuple):
    """A video of `length` frames, `fps` a second, `width` x `height` pixels, and what is kept of it."""

    frames: list[Still]
    length: int
    fps: float
    width: int
    height: int


def read_video(data: bytes | BinaryIO, where: str) -> VideoClip:
    """The frames to store, and their facts; `Refused` if the video cannot be used.

    One pass where the container's packets are as many as its frames, which is nearly always; else a second.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        promised, fps = _promised(file)
        wanted = _positions(promised, fps)
        clip = _decoded(file, wanted, fps)
        if clip.length != promised:
            wanted = _positions(clip.length, fps)
            clip = _decoded(file, wanted, fps)
    except av.FFmpegError as error:
        raise Refused("video-unreadable", f"{where}: {error.strerror}") from None
    except Refused as refused:
        raise Refused(refused.code, f"{where}: {refused.message}") from None
    assert [still.position for still in clip.frames] == wanted, where
    return clip


def _positions(length: int, fps: float) -> list[int]:
    return sorted({at for rate in RATES for at in frame_positions(length, fps, rate=rate, least=LEAST, most=MOST)})


def _promised(file: BinaryIO) -> tuple[int, float]:
    """The number of the video's packets, and its frames a second."""
    file.seek(0)
    with av.open(file, "r", options=_SEALED, metadata_errors="ignore") as container:
        streams = container.streams.video
        if not streams or not streams[0].codec_context:
            raise Refused("video-unreadable", "there is no picture in it")
        stream = streams[0]
        fps = stream.average_rate or stream.guessed_rate
        packets = sum(packet.size > 0 for packet in container.demux(stream))
        return packets, float(fps) if fps else 0.0


def _decoded(file: BinaryIO, wanted: Iterable[int], fps: float) -> VideoClip:
    """The wanted frames, and how many frames there are."""
    keep, stills = set(wanted), list[Still]()
    length, width, height, start = 0, 0, 0, 0.0
    file.seek(0)
    with av.open(file, "r", options=_SEALED, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for position, frame in enumerate(container.decode(stream)):
            length = position + 1
            if position not in keep:
                continue
            seconds = position / fps if frame.time is None else frame.time
            if not stills:  # position 0 is always wanted
                start = seconds
            image = Image.fromarray(frame.to_ndarray(format="rgb24")).rotate(frame.rotation, expand=True)
            width, height = image.size
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=90, subsampling="4:2:0")
            stills.append(Still(position, round(seconds - start, 6), jpeg.getvalue()))
    return VideoClip(stills, length, fps, width, height)
