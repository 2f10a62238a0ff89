"""What decoding costs the trainer, beside the bare decoders: CPU-ms each, the best of many rounds taken in turn.

    python benchmarks/tensors.py                        # pictures and speech made for it
    python benchmarks/tensors.py lake vita-1.5/2.2      # and every context of a stage

`bare` is Pillow alone: decode, resize, crop each tile, to numpy. At the end stands which decoders let other threads run
meanwhile: those that keep Python's lock would make threads useless.
"""

import argparse
import io
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import soxr
from PIL import Image

from tarsia.builders.audio import decode_flac, encode_flac
from tarsia.builders.fbank import fbank, features_of
from tarsia.builders.pixels import frame_square, image_tiles
from tarsia.builders.tokens import grid
from tarsia.manifests.collate import CHATS, Decoder
from tarsia.manifests.stream import Stream

SIZES = [(448, 448), (640, 480), (1280, 720), (1654, 2339), (4000, 3000)]


def main() -> None:
    """Pictures of five sizes, speech of three rates, and a stage where one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("lake", nargs="?")
    parser.add_argument("stage", nargs="?")
    given = parser.parse_args()
    print(f"{'':<28}{'ours':>9}{'bare':>9}{'ratio':>8}")
    for size in SIZES:
        data = photo(size)
        ours = lambda data=data, size=size: image_tiles(data, size, most=12, thumbnail=True)  # noqa: E731
        name = f"{size[0]} x {size[1]}, {len(data) >> 10} KB, {len(ours())} tiles"
        compare(name, ours, lambda data=data, size=size: bare(data, size))
    frame = photo((640, 360))
    compare("a video frame", lambda: frame_square(frame), lambda: bare(frame, (448, 448)))
    for rate in (16_000, 22_050, 24_000):
        flac = encode_flac((6000 * np.sin(np.arange(10 * rate) / 9)).astype(np.int16), rate)
        compare(f"10 s of speech at {rate} Hz", lambda flac=flac: features_of(flac))
    opened = Image.open(io.BytesIO(frame)).convert("RGB")
    speech = decode_flac(flac)
    for name, call in {
        "decoding a JPEG": lambda: Image.open(io.BytesIO(frame)).load(),
        "resizing": lambda: opened.resize((1792, 1344), Image.Resampling.BICUBIC),
        "decoding FLAC": lambda: decode_flac(flac),
        "resampling": lambda: soxr.resample(speech, 24_000, 16_000),
        "filter banks": lambda: fbank(speech),
        "summing up in Python, which does not": lambda: sum(range(500_000)),
    }.items():
        print(f"{name}: other threads {'run' if lets_others_run(call) else 'wait'}")
    if given.lake and given.stage:
        for threads in (0, 1, 2, 4):
            whole_stage(given.lake, given.stage, threads)


def photo(size: tuple[int, int]) -> bytes:
    """A JPEG with the detail of a photograph: about 0.25 bytes a pixel."""
    rng, file = np.random.default_rng(1), io.BytesIO()
    coarse = rng.integers(0, 256, (max(2, size[1] // 8), max(2, size[0] // 8), 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=88)
    return file.getvalue()


def bare(data: bytes, size: tuple[int, int]) -> list[np.ndarray]:
    image, (cols, rows) = Image.open(io.BytesIO(data)).convert("RGB"), grid(*size, 12)
    whole = image.resize((cols * 448, rows * 448), Image.Resampling.BICUBIC)
    corners = [(col * 448, row * 448) for row in range(rows) for col in range(cols)]
    tiles = [np.asarray(whole.crop((left, top, left + 448, top + 448))) for left, top in corners]
    return tiles + [np.asarray(image.resize((448, 448), Image.Resampling.BICUBIC))] * (len(tiles) > 1)


def compare(name: str, ours: Callable[[], object], beside: Callable[[], object] | None = None) -> None:
    best = [float("inf"), float("inf")]
    end = time.perf_counter() + 4
    while time.perf_counter() < end:
        for number, call in enumerate((ours, beside)):
            if call:
                began = time.thread_time()
                call()
                best[number] = min(best[number], (time.thread_time() - began) * 1e3)
    other = f"{best[1]:9.2f}{best[0] / best[1]:8.2f}" if beside else ""
    print(f"{name:<28}{best[0]:9.2f}{other}", flush=True)


def lets_others_run(call: Callable[[], object]) -> bool:
    """Whether a thread that waits for Python's lock gets it during a call, when nobody is ever made to give it up."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        return any(_ran_meanwhile(call) for _ in range(20))
    finally:
        sys.setswitchinterval(interval)


def _ran_meanwhile(call: Callable[[], object]) -> bool:
    gate, ran = threading.Event(), []
    other = threading.Thread(target=lambda: (gate.wait(), ran.append(1)))
    other.start()
    time.sleep(0.01)  # until it stands at the gate
    gate.set()
    call()
    meanwhile = bool(ran)
    other.join()
    return meanwhile


def whole_stage(lake: str, stage: str, threads: int) -> None:
    stream = Stream(lake, stage, batch=4)
    wall, cpu, contexts, squares = time.perf_counter(), time.process_time(), 0, 0
    for batch in Decoder(stream.manifest.context, CHATS, threads=threads)(stream):
        contexts, squares = contexts + len(batch.contexts), squares + len(batch["squares"])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{stage}, {threads} threads: {contexts} contexts, {squares} squares: "
        f"{contexts / wall:.1f} contexts a second, {cpu / contexts * 1e3:.1f} CPU-ms each"
    )


if __name__ == "__main__":
    sys.exit(main())
