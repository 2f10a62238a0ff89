import io
import struct
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path

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
    video = read_video(data[: len(data) * 17 // 20], "a")
    assert 90 <= video.length < 120
    assert video.frames[-1].position < video.length


@pytest.mark.parametrize(("kind", "codec"), [*CONTAINERS, ("matroska", "libx264"), ("faststart", "libx264")])
def test_a_video_that_breaks_off_is_refused(kind, codec):
    data = fast_start(clip("mp4", codec, 4)) if kind == "faststart" else clip(kind, codec, 4)
    assert read_video(data, "a").length == 120
    assert refusal(data[: len(data) // 2]).startswith(("video-truncated", "video-unreadable"))


def fast_start(data):
    """An MP4 whose table stands before its frames, as servers have it: cut short, it still opens."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.mp4"
        with av.open(io.BytesIO(data)) as source, av.open(path, "w", options={"movflags": "faststart"}) as sink:
            stream = sink.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    sink.mux(packet)
        return Path(path).read_bytes()


def timed(kind, codec, milliseconds, rate):
    """A video whose frames stand at these times, in a container that claims another rate."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, at in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), number * 2, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def test_a_rate_that_the_frames_belie_is_measured():
    video = read_video(timed("webm", "libvpx", range(0, 4000, 40), 1000), "a")  # as browsers record
    assert (video.length, video.fps) == (100, 25.0)
    assert [frame.position for frame in video.frames] == [0, 8, 16, 24, 25, 32, 40, 48, 50, 56, 64, 72, 75, 80, 88, 96]
    assert video.frames[1].seconds == 0.32


def test_a_varying_rate_is_taken_as_its_mean_and_times_stay_true():
    times = [*range(0, 1000, 50), *range(1000, 6000, 250)]  # 20 frames a second, then 4
    video = read_video(timed("matroska", "libx264", times, 20), "a")
    assert (video.length, video.fps) == (40, pytest.approx(39 / 5.75, abs=1e-6))
    assert [frame.seconds for frame in video.frames] == [times[frame.position] / 1000 for frame in video.frames]


@pytest.mark.parametrize(("size", "code"), [((2000, 100), "video-ratio"), ((16_000, 16_000), "video-huge")])
def test_shapes_that_no_model_looks_at_are_refused(size, code):
    assert refusal(re_sized(*size)).startswith(code)


def re_sized(width, height):
    """One raw frame in AVI; for what is too large its header alone claims it."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = min(width, 2000), min(height, 1000), "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((stream.height, stream.width, 3), np.uint8), format="rgb24")
        for _ in range(9):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = bytearray(file.getvalue())
    if width > 2000:
        at = data.index(b"strf") + 8 + 4  # BITMAPINFOHEADER: its size, width, height
        struct.pack_into("<ii", data, at, width, height)
        frame_at = -1
        while (frame_at := data.find(b"\xff\xc0", frame_at + 1)) > 0:  # and so do the frames
            struct.pack_into(">HH", data, frame_at + 5, height, width)
    return bytes(data)


def test_the_cover_of_a_song_is_no_video():
    cover, song = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(cover, "PNG")
    picture = cover.getvalue()
    kind, lengths = b"image/png", (3, 9)
    block = struct.pack(">II", lengths[0], lengths[1]) + kind + struct.pack(">IIIIII", 0, 64, 64, 24, 0, len(picture))
    soundfile.write(song, np.zeros(16_000), 16_000, format="FLAC")
    data = song.getvalue()
    end = 8 + int.from_bytes(data[5:8], "big")  # of STREAMINFO, the first block
    block += picture
    first = bytes([data[4] & 0x7F]) + data[5:end]
    data = data[:4] + first + b"\x06" + len(block).to_bytes(3, "big") + block + data[end:]
    assert refusal(data) == "video-unreadable: a.mp4: there is no picture in it"


@pytest.mark.parametrize(
    ("kind", "codec", "extension"), [*((*one, one[0]) for one in CONTAINERS), ("matroska", "libx264", "mkv")]
)
def test_the_container_tells_what_its_file_is_called(kind, codec, extension):
    assert read_video(clip(kind, codec, 1), "a").extension == extension


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
