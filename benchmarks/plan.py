"""What planning costs: stages of vita-1.5 over a synthetic lake in the proportions of the paper's Table 1.

    python benchmarks/plan.py 1_000_000 4_000_000

No media and no files: the tables that `tarsia plan` would have read, one question a sample as the table counts them.
Lengths are a model, not VITA's data: text by a lognormal law with the medians below, images by shape through the real
tiling rule, sidecars for the samples that stage 2.2 selects (one question in twenty refused). For each stage: CPU and
wall seconds, contexts over the bound, and the memory that the process held at its peak so far.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.builders.chat import system_tokens
from tarsia.builders.documents import read_recipe
from tarsia.builders.tokens import tiles, tokenizer
from tarsia.manifests.plan import INDEX_COLUMNS, PROMPTS, Corpus, plan
from tarsia.manifests.select import arc
from tarsia.schemas.corpus import CAP
from tarsia.schemas.corpus import Corpus as Entry
from tarsia.schemas.identity import Draws, redraws
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import INDEX, Shard, Stored, leaves

# VITA-1.5 (arXiv 2501.01957), Table 1: thousands of questions, kind, language, what is looked at, median text tokens
TABLE = (
    ("sharegpt4v", 99.50, "caption", "en", "photo", 190),
    ("allava_caption", 697.40, "caption", "en", "photo", 220),
    ("sharegpt4o_image", 55.50, "caption", "en", "photo", 250),
    ("synthetic_caption", 593.70, "caption", "zh", "web", 180),
    ("llava_150k", 218.36, "qa", "zh", "photo", 130),
    ("llava_mixture_sample", 1872.10, "qa", "en", "photo", 90),
    ("lvis_instruct", 939.36, "qa", "en", "photo", 90),
    ("scienceqa", 12.72, "qa", "en", "chart", 110),
    ("chatqa", 7.39, "qa", "en", "chart", 90),
    ("llava_ov_general", 1754.65, "qa", "en", "web", 100),
    ("llava_ov_math", 1140.92, "qa", "en", "chart", 150),
    ("synthetic_qa", 212.68, "qa", "zh", "web", 120),
    ("anyword_3m", 1709.30, "caption", "zh", "web", 60),
    ("lsvt", 366.30, "caption", "zh", "street", 70),
    ("ureader", 100.00, "caption", "en", "page", 300),
    ("syndog_en", 100.00, "caption", "en", "page", 430),
    ("syndog_zh", 101.90, "caption", "zh", "page", 430),
    ("lsvt_qa", 630.08, "qa", "zh", "street", 55),
    ("llava_ov_doc", 4431.50, "qa", "en", "page", 70),
    ("llava_ov_ocr", 404.20, "qa", "en", "chart", 80),
    ("sharegemini", 205.70, "caption", "zh", "video", 220),
    ("synthetic_video", 569.40, "caption", "zh+en", "video", 180),
    ("synthetic_video_qa", 4336.30, "qa", "zh+en", "video", 90),
    ("synthetic_text", 1574.20, "qa", "zh+en", "text", 330),
)
SIZES = {
    "photo": ((640, 480), (640, 427), (500, 375), (480, 640), (612, 612)),
    "web": ((512, 512), (768, 1024), (1280, 720), (400, 300), (800, 800)),
    "street": ((1280, 720), (1080, 1440), (960, 1280)),
    "page": ((1654, 2339), (1024, 1325), (1000, 1000), (1200, 900)),
    "chart": ((850, 600), (400, 300), (1000, 500), (300, 300)),
}
STAGES = ("1.1", "1.2", "1.3", "2.2")
POOL = "bench"


def main() -> None:
    """Plans every stage at every size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("samples", type=int, nargs="+")
    parser.add_argument("--stage", action="append", help=f"of {', '.join(STAGES)}; all of them if not said")
    parser.add_argument("--digests", action="store_true", help="also digest the rows of each stage")
    told = parser.parse_args()
    recipe = read_recipe("vita-1.5")
    words = tokenizer(recipe.context.tokenizer)
    prompts = {name: system_tokens(words, name) for name in PROMPTS}
    plan(recipe, "1.1", lake(10_000, recipe), prompts)  # compiles the packer
    print("samples     stage   selected   contexts  over bound  CPU s  wall s  us/sample  peak MB")
    for count in told.samples:
        corpora = lake(count, recipe)
        print(f"{count:<41,} tables in memory {_peak():>31,.0f}")
        for name in told.stage or STAGES:
            began, wall = time.process_time(), time.monotonic()
            planned = plan(recipe, name, corpora, prompts)
            spent, waited = time.process_time() - began, time.monotonic() - wall
            selected = len(planned.samples) + len(planned.unplaced)
            over = len(planned.contexts) / planned.bound - 1
            print(
                f"{count:<11,} {name:<5} {selected:>10,} {len(planned.contexts):>10,} {over:>10.4%} "
                f"{spent:>7.2f} {waited:>7.2f} {spent / selected * 1e6:>10.2f} {_peak():>8,.0f}",
                flush=True,
            )
            if told.digests:
                began = time.process_time()
                short = {table: digest[:16] for table, digest in planned.rows.items()}
                print(f"{'':<12}{short}  {time.process_time() - began:.2f} CPU s")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lake(count: int, recipe: Recipe) -> list[Corpus]:
    """The tables of a lake of about `count` samples, sorted by name as a snapshot lists them."""
    total = sum(row[1] for row in TABLE)
    return [corpus(row, max(1, round(count * row[1] / total)), recipe) for row in sorted(TABLE)]


def corpus(row: tuple[str, float, str, str, str, int], count: int, recipe: Recipe) -> Corpus:
    """One corpus of `count` samples."""
    name, _, kind, language, seen, median = row
    numbers = np.arange(count, dtype=np.uint64)
    draws = np.sort(redraws(numbers, name))
    shards = tuple(leaves(draws, CAP))
    sizes = np.array([leaf.end - leaf.begin for leaf in shards])
    shard = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    first = np.repeat([leaf.begin for leaf in shards], sizes)
    strings = _hex(draws, redraws(draws, "key"))
    words = (median * np.exp(0.55 * _normal(draws, "words"))).astype(np.int32)
    question = np.minimum(6 + words // 5, 60).astype(np.int32)
    columns = {
        "key": strings,
        "draw": pa.array(draws),
        "record": strings,
        "language": _names(_choice(draws, "language", 2) if "+" in language else np.zeros(count), language.split("+")),
        "modality": _names(np.zeros(count), [seen if seen in ("text", "video") else "image"]),
        "questions": pa.array(np.ones(count, np.int32)),
        "offset": pa.array((np.arange(count) - first) * 51_200),
        "length": pa.array(np.full(count, 51_200)),
        "checksum": pa.array(redraws(draws, "checksum")),
    }
    index = pa.table({column: columns[column] for column in INDEX_COLUMNS})
    assert all(index.schema.field(column).type == INDEX.field(column).type for column in INDEX_COLUMNS)
    costs = pa.table(
        {
            "answers": pa.array(words),
            "read": _lists(question + 5),
            "heard": _lists(np.full(count, 5, np.int32)),
            "speakable": _lists(redraws(draws, "speakable") < np.uint64(0.85 * 2**64)),
            "tiles": pa.array(_tiles(draws, seen, recipe)),
            "frames": pa.array(
                (4 + _choice(draws, "frames", 13)).astype(np.int32) if seen == "video" else np.zeros(count, np.int32)
            ),
            "audio_tokens": pa.array(np.zeros(count, np.int32)),
            "seconds": pa.array(np.zeros(count)),
        }
    )
    entry = Entry(name=name, format="bench", kind=Kind(kind), language="zh+en", licence="none", root=".")
    state = CorpusState(corpus=entry, source="", records=count, shards=tuple(_shards(f"corpora/{name}", sizes)))
    amount = next(take.amount for take in recipe.stages["2.2"].takes if take.kind is Kind(kind))
    speech, speech_shard = _speech(columns, question, np.sort(arc(draws, recipe.seed, amount.of(count))))
    sidecars = SpeechState(pool=POOL, corpus=name, shards=tuple(_shards(f"speech/{name}", np.bincount(speech_shard))))
    return Corpus(state, index, shard, costs, sidecars, speech, speech_shard)


def _speech(
    columns: dict[str, pa.Array], question: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]
) -> tuple[pa.Table, npt.NDArray[np.int32]]:
    """Sidecars of some rows: one question in twenty is refused."""
    draws = columns["draw"].to_numpy()[rows]
    refused = redraws(draws, "refused") < np.uint64(0.05 * 2**64)
    length = 8_000 + question[rows].astype(np.int64) * 4_000 + _choice(draws, "clip", 8_000)
    turn = np.zeros(len(rows), np.int32)
    clip = pa.StructArray.from_arrays([pa.array(turn[~refused]), pa.array(length[~refused])], ["turn", "samples16"])
    no = pa.StructArray.from_arrays([pa.array(turn[refused])], ["turn"])
    table = {name: columns[name].take(pa.array(rows)) for name in ("key", "draw", "record")}
    table |= {"clips": _some(~refused, clip), "refused": _some(refused, no)}
    shards = tuple(leaves(draws, CAP))
    sizes = [leaf.end - leaf.begin for leaf in shards]
    table["offset"] = pa.array(np.arange(len(rows)) * 9_000)
    table["length"] = pa.array(np.full(len(rows), 9_000))
    table["checksum"] = pa.array(redraws(draws, "speech checksum"))
    return pa.table(table), np.repeat(np.arange(len(shards), dtype=np.int32), sizes)


def _shards(folder: str, sizes: npt.NDArray[np.int64]) -> Iterator[Shard]:
    for number, size in enumerate(sizes.tolist()):
        tar = Stored(path=f"{folder}/{number:08d}.tar", bytes=0, digest="")
        yield Shard(leaf=str(number), samples=size, questions=size, objects=(tar,))


def _tiles(draws: Draws, seen: str, recipe: Recipe) -> npt.NDArray[np.int32]:
    if seen not in SIZES:
        return np.zeros(len(draws), np.int32)
    settings = recipe.context
    costs = [tiles(*size, most=settings.tiles, thumbnail=settings.thumbnail) for size in SIZES[seen]]
    return np.array(costs, np.int32)[_choice(draws, "size", len(costs))]


def _choice(draws: Draws, purpose: str, count: int) -> npt.NDArray[np.int64]:
    return (redraws(draws, purpose) % np.uint64(count)).astype(np.int64)


def _normal(draws: Draws, purpose: str) -> npt.NDArray[np.float64]:
    """Box and Muller's normal numbers, from two draws."""
    one, two = (redraws(draws, f"{purpose} {part}").astype(np.float64) / 2**64 for part in (1, 2))
    return np.asarray(np.sqrt(-2 * np.log1p(-np.minimum(one, 1 - 1e-12))) * np.cos(2 * np.pi * two))


def _names(codes: npt.NDArray[np.int64], names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names))


def _lists(values: npt.NDArray[np.int32]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), pa.array(values))


def _some(there: npt.NDArray[np.bool_], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(there)]).astype(np.int32)), values)


def _hex(high: Draws, low: Draws) -> pa.StringArray:
    """Strings of 32 hex digits."""
    text = np.stack([high, low], axis=1).astype(">u8").tobytes().hex().encode()
    offsets = pa.py_buffer((np.arange(len(high) + 1) * 32).astype(np.int32))
    return pa.StringArray.from_buffers(len(high), offsets, pa.py_buffer(text))


if __name__ == "__main__":
    main()
