import io
import struct
from functools import cache

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from tarsia.builders.tokens import frame_positions
from tarsia.builders.video import read_video
from tarsia.schemas.errors import Refused


@cache
def clip(kind, codec, seconds, fps=30):
    """A video whose frames grow lighter by one and a half levels each, 160 x 120."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 160, 120, "yuv420p", 30
        for number in range(round(seconds * fps)):
            shade = np.full((120, 160, 3), number * 3 // 2 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def refusal(data):
    with pytest.raises(Refused) as caught:
        read_video(data, "a.mp4")
    return str(caught.value)


CONTAINERS = [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")]


@pytest.mark.parametrize(("kind", "codec"), CONTAINERS)
@pytest.mark.parametrize(
    ("seconds", "positions"),
    [
        (0.5, [0, 10]),
        (1, [0, 10, 20]),
        (4, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110]),
        (10, [0, 10, 30, 50, 60, 70, 90, 110, 120, 130, 150, 170, 180, 190, 210, 230, 240, 250, 270, 290]),
    ],
)
def test_the_frames_of_both_rules_are_kept(kind, codec, seconds, positions):
    video = read_video(clip(kind, codec, seconds), "a")
    assert (video.length, video.fps, video.width, video.height) == (seconds * 30, 30.0, 160, 120)
    assert [frame.position for frame in video.frames] == positions
    assert [frame.seconds for frame in video.frames] == pytest.approx([at / 30 for at in positions], abs=0.001)
    assert all(
        at in positions for rate in (1, 3) for at in frame_positions(video.length, 30, rate=rate, least=4, most=16)
    )


@pytest.mark.parametrize(("kind", "codec"), CONTAINERS)
def test_each_kept_frame_is_the_one_at_its_position(kind, codec):
    for frame in read_video(clip(kind, codec, 4), "a").frames:
        with Image.open(io.BytesIO(frame.jpeg)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (160, 120), "RGB")
            assert np.asarray(image).mean() == pytest.approx(frame.position * 3 // 2, abs=4)


def test_the_same_video_gives_the_same_bytes():
    data = clip("mp4", "libx264", 4)
    assert read_video(data, "a") == read_video(io.BytesIO(data), "b")


def test_frames_that_only_the_header_tells_of_are_not_counted():
    data = clip("webm", "libvpx-vp9", 4)
    video = read_video(data[: len(data) * 3 // 4], "a")
    assert 60 < video.length < 120
    assert video.frames[-1].position < video.length


def test_packets_that_do_not_decode_to_a_frame_are_not_counted():
    headless = io.BytesIO()
    with av.open(io.BytesIO(clip("mp4", "libx264", 4))) as source, av.open(headless, "w", format="mp4") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[1:-1]:  # the first is the key frame, the last is empty
            packet.stream = stream
            sink.mux(packet)
    with av.open(io.BytesIO(headless.getvalue())) as container:
        decoded = sum(1 for _ in container.decode(video=0))
    assert 60 < decoded < 119
    video = read_video(headless.getvalue(), "a")
    assert video.length == decoded
    assert [frame.position for frame in video.frames] == list(range(0, decoded, 10))


def test_frames_are_stored_upright():
    data = clip("mp4", "libx264", 0.5)
    at = data.index(b"tkhd") + 44  # the matrix of the first version of this box
    assert struct.unpack_from(">9i", data, at) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    video = read_video(data[:at] + quarter + data[at + 36 :], "a")
    assert (video.width, video.height) == (120, 160)
    with Image.open(io.BytesIO(video.frames[0].jpeg)) as image:
        assert image.size == (120, 160)


def test_fewer_than_one_and_a_half_frames_a_second_are_refused():
    assert (
        refusal(clip("mp4", "libx264", 8, fps=1))
        == "video-fps: a.mp4: 1 frames a second are too few to take 3 a second"
    )


def test_what_is_no_video_is_refused():
    assert refusal(b"").startswith("video-unreadable: a.mp4")
    assert refusal(b"<html>404</html>" * 9).startswith("video-unreadable")
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(16_000), 16_000, format="WAV")
    assert refusal(sound.getvalue()) == "video-unreadable: a.mp4: there is no picture in it"


def test_a_video_that_breaks_off_in_a_frame_is_refused():
    data = clip("mp4", "libx264", 4)
    end = data.index(b"moov")
    assert refusal(data[: end - 2000] + b"\0" * 2000 + data[end:]).startswith("video-unreadable")


def test_a_codec_that_nobody_knows_is_refused():
    assert (
        refusal(clip("mp4", "libx264", 1).replace(b"avc1", b"zzz1"))
        == "video-unreadable: a.mp4: there is no picture in it"
    )


def test_a_video_without_frames_is_refused():
    assert refusal(clip("mp4", "libx264", 0)).startswith("video-")


def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(clip("mp4", "libx264", 1))
    assert refusal(b"ffconcat version 1.0\nfile secret.mp4\n").startswith("video-unreadable")
