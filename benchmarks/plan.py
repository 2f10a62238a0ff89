"""VITA-1.5's whole curriculum at its true size: planned, audited and asked for its lineage, from a lake on disk.

    python benchmarks/plan.py --share 1/4 --lake /tmp/quarter
    python benchmarks/plan.py --share 1 --lake /tmp/whole

Writes the tables of a lake with the paper's Table 1 (one single-question sample a question: 22,133,160 of them), ten
million recordings, 3,100 hours of text with its speech, and verdicts on the questions that stage 2.2 would have spoken:
shards' indexes, costs under the recipe's settings, origins, sidecars' indexes and a snapshot, but no tar, no text and
no medium. Then `tarsia plan` (costs are cached, as in every plan but the first), `tarsia audit` and `tarsia inspect`
run over it, each in a process of its own, and the sizes of the stages are compared with the paper's arithmetic.

Last, of one record in a hundred half are taken down and half have other bytes, all over the lake (in a copy of links
beside it: the lake itself stays as it is), and `tarsia plan --repair` follows. The contexts that it moved are compared
with those it had to move, and the repaired plan is audited.

Lengths are a model, not VITA's data: text by a lognormal law with the medians below, images by shape through the real
tiling rule, speech by a lognormal law around four and a half seconds; 15 % of the questions cannot be spoken by their
text, and 5 % of the others were refused.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.columns import words
from tarsia.builders.documents import read_recipe
from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import get_table, in_groups, packed, put_table
from tarsia.builders.tokens import audio_tokens, tiles
from tarsia.builders.tombstones import put_tombstones, standing_for, tombstone
from tarsia.manifests.audit import audit
from tarsia.manifests.costs import COSTS, settings_digest
from tarsia.manifests.lineage import Lineage
from tarsia.manifests.refollow import parent_of
from tarsia.manifests.stream import load_manifest
from tarsia.pipelines.plan import make_plans
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.corpus import CAP
from tarsia.schemas.corpus import Corpus as Entry
from tarsia.schemas.identity import Draws, canonical, redraws, start
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import CLIP, INDEX, ORIGINS, SPEECH, TOMBSTONES, Shard, Stored, leaves

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
# what the paper has of speech, in thousands of recordings: all of ten million, and 3,000 hours with a few to spare
TABLE += (
    ("speech_zh", 6000.00, "asr", "zh", "audio", 20),
    ("speech_en", 4000.00, "asr", "en", "audio", 15),
    ("voices_zh", 1400.00, "tts", "zh", "audio", 20),
    ("voices_en", 1000.00, "tts", "en", "audio", 15),
)
SIZES = {
    "photo": ((640, 480), (640, 427), (500, 375), (480, 640), (612, 612)),
    "web": ((512, 512), (768, 1024), (1280, 720), (400, 300), (800, 800)),
    "street": ((1280, 720), (1080, 1440), (960, 1280)),
    "page": ((1654, 2339), (1024, 1325), (1000, 1000), (1200, 900)),
    "chart": ((850, 600), (400, 300), (1000, 500), (300, 300)),
}
STAGES = {"1.1": 919_740, "1.2": 4_598_700, "1.3": 18_454_200, "2.1": 10_000_000, "2.2": 3_690_840}  # Table 1
POOL = "bench"
PART = 1 << 18  # records of one table of origins
RECIPE = "vita-1.5"


class Row(NamedTuple):
    """A corpus: thousands of questions, kind, language, what is looked at, median text tokens."""

    name: str
    thousands: float
    kind: str
    language: str
    seen: str
    median: int

    def count(self, share: Fraction) -> int:
        """Its samples in a lake of some share of the whole."""
        return max(1, round(share * round(self.thousands * 1000)))


def main() -> None:
    """Writes the lake if it is not there, and measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--share", type=Fraction, default=Fraction(1, 100), help="of the whole lake, such as 1/4")
    parser.add_argument("--lake", type=Path, help="where it lies, or is to be written; else a folder for a moment")
    parser.add_argument("--only", choices=("plan", "audit", "inspect", "repair"), action="append")
    told = parser.parse_args()
    lake = told.lake or Path(tempfile.mkdtemp(prefix="tarsia-bench-"))
    changed = lake.with_name(f"{lake.name}-changed")
    try:
        if not (lake / "snapshots").exists():
            print(f"written in {write(lake, told.share):,.0f} s")
        print("step        CPU s  wall s  peak MB")
        for name, step in {"plan": _plan, "audit": _audit, "inspect": _inspect}.items():
            if not told.only or name in told.only:
                _run(name, step, lake, told.share)
        if not told.only or "repair" in told.only:
            change(lake, changed)
            for name, step in {"repair": _repair, "moved": _moved, "audit": _audit}.items():
                _run(name, step, changed, told.share)
    finally:
        shutil.rmtree(changed, ignore_errors=True)
        if not told.lake:
            shutil.rmtree(lake)


Step = Callable[[str, Fraction], list[str]]


def _run(name: str, step: Step, lake: Path, share: Fraction) -> None:
    """Runs a step in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        spent, waited, peak, said = alone.submit(_measured, step, str(lake), share).result()
    print(f"{name:<10} {spent:>6.1f} {waited:>7.1f} {peak:>8,.0f}", *said, sep="\n  ", flush=True)


def _measured(step: Step, lake: str, share: Fraction) -> tuple[float, float, float, list[str]]:
    began, wall = time.process_time(), time.monotonic()
    said = step(lake, share)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return time.process_time() - began, time.monotonic() - wall, peak, said


def _plan(lake: str, share: Fraction) -> list[str]:
    """Every stage in one call, written where none stands; sizes are those of the paper's table to the sample."""
    shutil.rmtree(Path(lake, "stages"), ignore_errors=True)
    with open_pool(1) as pool:
        manifests = make_plans(read_recipe(RECIPE), Lake(lake), pool, voices=POOL, quiet=True)
    said = []
    for manifest in manifests:
        selected = sum(count.selected for count in manifest.counts)
        spoken, asked = sum(count.spoken for count in manifest.counts), sum(ask.spoken or 0 for ask in manifest.asks)
        hours = sum(count.selected_seconds for count in manifest.counts) / 3600
        if share == 1 and manifest.name in STAGES:
            assert selected == STAGES[manifest.name], (manifest.name, selected)
        assert spoken == asked
        assert manifest.name not in ("3.1", "3.2") or abs(hours - min(3000, hours)) < 0.01
        over = manifest.contexts / manifest.bound - 1
        said.append(
            f"{manifest.name}: selected {selected:,}, spoken {spoken:,} of {asked:,} asked, {hours:,.1f} h, "
            f"contexts {manifest.contexts:,}, {over:.4%} over the bound"
        )
    return said


def _audit(lake: str, share: Fraction) -> list[str]:
    recipe = read_recipe(RECIPE)
    manifests = [load_manifest(lake, f"{RECIPE}/{name}") for name in recipe.stages]
    result = audit(Lake(lake), manifests, recipe=recipe)
    return [
        f"{result.checks:,} checks of a lake of {share}, {len(result.findings)} findings",
        *map(str, result.findings[:5]),
    ]


def _inspect(lake: str, share: Fraction) -> list[str]:
    """Which contexts hold a record, of records that lie all over the lake; and the records of contexts."""
    lineage, store = Lineage(Lake(lake)), Lake(lake)
    snapshot = store.snapshot()
    keys = [
        get_table(store.store, state.shards[number * len(state.shards) // 3].index, ("key",))["key"][0].as_py()
        for state in snapshot.corpora
        for number in range(3)
    ]
    lineage.of_key(keys[0])  # opens the manifests
    taken, places = list[float](), 0
    for key in keys:
        began = time.monotonic()
        places += len(lineage.of_key(key).places)
        taken.append((time.monotonic() - began) * 1000)
    back, contexts = list[float](), load_manifest(lake, f"{RECIPE}/1.3").contexts
    for number in range(0, min(5000, contexts), 500):
        began = time.monotonic()
        lineage.of_context(f"{RECIPE}/1.3", number)
        back.append((time.monotonic() - began) * 1000)
    return [
        f"{len(keys)} keys of a lake of {share}, {places} places: median {np.median(taken):.0f} ms, "
        f"most {max(taken):.0f}",
        f"{len(back)} contexts: median {np.median(back):.0f} ms, most {max(back):.0f}",
    ]


def _repair(lake: str, share: Fraction) -> list[str]:
    """Every stage follows what stands; a question whose clip is not asked for yet counts as text."""
    with open_pool(1) as pool:
        manifests = make_plans(
            read_recipe(RECIPE), Lake(lake), pool, voices=POOL, pending_as_text=True, repair=True, quiet=True
        )
    stay = {one.name: (one.repaired.kept, one.repaired.before) for one in manifests if one.repaired}
    return [f"{name}, of a lake of {share}: {kept:,} of {all_:,} contexts stay" for name, (kept, all_) in stay.items()]


def _moved(lake: str, share: Fraction) -> list[str]:
    """Contexts of the parents that the repair moved, beside those that hold a sample which is not what it was."""
    store, said = open_store(lake), []
    for name in read_recipe(RECIPE).stages:
        after = load_manifest(lake, f"{RECIPE}/{name}")
        assert after.repaired
        before = parent_of(store, after, after.repaired.parents[-1])
        was, now = _placed(store, before), _placed(store, after)
        at = np.minimum(np.searchsorted(now.draws, was.draws), len(now.draws) - 1)
        gone = (now.draws[at] != was.draws) | (now.facts[at] != was.facts[: len(at)])
        must, moved = len(np.unique(was.contexts[gone])), before.contexts - after.repaired.kept
        assert moved <= 1.05 * must, (name, moved, must)
        said.append(f"{name} of a lake of {share}: moved {moved:,}, {moved / max(1, must):.4f} of what it must")
    return said


class Placed(NamedTuple):
    """The samples of a stage in the order of their draws: where they are, and a number that stands for all they say."""

    draws: Draws
    contexts: npt.NDArray[np.int32]
    facts: Draws


def _placed(store: Store, manifest: Manifest) -> Placed:
    parts = []
    for table in in_groups(store, manifest.tables["samples"], ("key", "context", "tokens", "checksum", "spoken")):
        key, spoken = table["key"].combine_chunks(), pc.list_value_length(table["spoken"]).to_numpy()
        tokens = table["tokens"].to_numpy().astype(np.uint64)
        facts = table["checksum"].to_numpy() ^ redraws(tokens, "tokens") ^ redraws(spoken.astype(np.uint64), "spoken")
        parts.append((words(packed(key, 16))[:, 0].astype(np.uint64), table["context"].to_numpy(), facts))
    draws, contexts, facts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(draws, kind="stable")
    return Placed(draws[order], contexts[order], facts[order])


# --- the lake -------------------------------------------------------------------------------------------------------


def write(lake: Path, share: Fraction) -> float:
    """Writes the tables of the lake, corpora side by side; the seconds it took."""
    began = time.monotonic()
    rows = [Row(*row) for row in sorted(TABLE, key=lambda row: -row[1])]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        written = list(pool.map(_corpus, rows, [row.count(share) for row in rows], [str(lake)] * len(rows)))
    states = tuple(sorted((state for state, _ in written), key=lambda state: state.corpus.name))
    speech = tuple(sorted((said for _, said in written if said), key=lambda said: said.corpus))
    Lake(str(lake)).publish(lambda snapshot: snapshot.model_copy(update={"corpora": states, "speech": speech}))
    return time.monotonic() - began


def _corpus(row: Row, count: int, lake: str) -> tuple[CorpusState, SpeechState | None]:
    """One corpus of `count` samples."""
    store, recipe = open_store(lake), read_recipe(RECIPE)
    numbers = np.arange(count, dtype=np.uint64)
    unsorted = redraws(numbers, row.name)
    order = np.argsort(unsorted)
    draws, settings = unsorted[order], settings_digest(recipe.context)
    shards, every = [], list(leaves(draws, CAP))
    for several in (every[at : at + 64] for at in range(0, len(every), 64)):
        begin, end = several[0].begin, several[-1].end
        facts = _Facts(row, draws[begin:end], order[begin:end], recipe)
        index, costs = facts.index(), facts.costs()
        for leaf in several:
            mine = index.slice(leaf.begin - begin, leaf.end - leaf.begin)
            stored = put_table(store, f"corpora/{row.name}/{leaf.name}", _ranged(mine, 51_200))
            shards.append(_shard(leaf.name, stored, len(mine)))
            path = f"costs/{settings}/{row.name}/{stored.path.rsplit('/', 1)[1].removesuffix('.parquet')}"
            counted = put_table(store, path, costs.slice(leaf.begin - begin, len(mine)))
            store.create(f"commits/{path}.json", canonical(counted.model_dump(mode="json")))
    entry = Entry(name=row.name, format="bench", kind=Kind(row.kind), language="zh+en", licence="none", root=".")
    origins = tuple(_origins(row, draws[at : at + PART], order[at : at + PART], store) for at in range(0, count, PART))
    state = CorpusState(corpus=entry, source="", records=count, shards=tuple(shards), origins=origins)
    return state, _sidecars(row, draws, order, recipe, store)


def change(lake: Path, copy: Path) -> None:
    """A copy of links where one record in a hundred is not what it was: the indexes of all shards are written anew."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(lake, copy, copy_function=os.link)
    states = Lake(str(copy)).snapshot().corpora
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        changed = tuple(pool.map(_changed, states, [str(copy)] * len(states)))
    Lake(str(copy)).publish(lambda snapshot: snapshot.model_copy(update={"corpora": changed}))


def _changed(state: CorpusState, lake: str) -> CorpusState:
    """A corpus of which some samples were taken down, and others have other bytes."""
    store, shards, gone = open_store(lake), [], []
    for shard in state.shards:
        index = get_table(store, shard.index)
        dice = redraws(index["draw"].to_numpy(), "changed") % np.uint64(200)
        buried = [tombstone(row) for row in index.filter(pa.array(dice == 0)).to_pylist()]
        standing = pa.Table.from_pylist([standing_for(row, state.corpus)[0] for row in buried], INDEX)
        others = index["checksum"].to_numpy() ^ (dice == 1)
        index = index.set_column(index.column_names.index("checksum"), "checksum", pa.array(others))
        index = pa.concat_tables([index.filter(pa.array(dice != 0)).cast(INDEX), standing]).sort_by("key")
        stored = put_table(store, shard.index.path.rsplit("-", 1)[0], index.unify_dictionaries())
        less = {"objects": (shard.tar, stored), "taken_down": len(buried), "questions": shard.questions - len(buried)}
        shards.append(shard.model_copy(update=less))
        gone += buried
    stones = pa.Table.from_pylist(gone, TOMBSTONES).sort_by("key")
    origins = []
    for stored in state.origins:
        table = get_table(store, stored)
        left = table.filter(pc.invert(pc.is_in(table["key"], value_set=stones["key"].combine_chunks())))
        origins.append(put_table(store, f"origins/{state.corpus.name}/part", left))
    less = {"tombstones": put_tombstones(store, state.corpus.name, stones), "taken_down": len(gone)}
    return state.model_copy(update={"shards": tuple(shards), "origins": tuple(origins), **less})


class _Facts:
    """What is known of some samples of a corpus, in draw order."""

    def __init__(self, row: Row, draws: Draws, numbers: npt.NDArray[Any], recipe: Recipe) -> None:
        self.row, self.draws, self.numbers, self.recipe = row, draws, numbers, recipe
        self.words = (row.median * np.exp(0.55 * _normal(draws, "words"))).astype(np.int32)
        self.question = np.minimum(6 + self.words // 5, 60).astype(np.int32)
        self.speakable = redraws(draws, "speakable") < np.uint64(0.85 * 2**64)
        self.sizes = SIZES.get(row.seen, ())
        self.size = _choice(draws, "size", max(1, len(self.sizes)))
        heard = row.seen == "audio"
        hundredths = np.clip(460 * np.exp(0.45 * _normal(draws, "seconds")), 50, 3000).astype(np.int64)
        self.samples = hundredths * 160 if heard else np.zeros(len(draws), np.int64)

    def index(self) -> pa.Table:
        """INDEX, but for where the samples lie; columns that no plan and no audit reads are kept short."""
        row, count = self.row, len(self.draws)
        codes = _choice(self.draws, "language", 2) if "+" in row.language else np.zeros(count, np.int64)
        modality = row.seen if row.seen in ("text", "video", "audio") else "image"
        wide, high = (np.array([size[side] for size in self.sizes] or [0], np.int32)[self.size] for side in (0, 1))
        image = [_same("0.jpg", count), pa.array(wide), pa.array(high), _same("", count)]
        rate = pa.array(np.full(count, 16_000, np.int32))
        audio = [_same("0.flac", count), pa.array(self.samples), rate, rate, _same("", count)]
        keys = _keys(self.draws)
        columns = {
            "key": keys,
            "draw": pa.array(self.draws),
            "corpus": _same(row.name, count),
            "id": pa.array(self.numbers).cast(pa.string()),
            "record": _hex(redraws(self.draws, "record"), redraws(self.draws, "of")),
            "kind": _same(row.kind, count),
            "language": pa.array(row.language.split("+")).take(pa.array(codes)),
            "modality": _same(modality, count),
            "questions": pa.array(np.ones(count, np.int32)),
            "images": _each(image, INDEX.field("images").type, there=modality == "image"),
            "audios": _each(audio, INDEX.field("audios").type, there=modality == "audio"),
            "offset": pa.array(np.zeros(count, np.int64)),
            "length": pa.array(np.full(count, 51_200)),
            "checksum": pa.array(redraws(self.draws, "checksum")),
        }
        arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in INDEX]
        return pa.table([_typed(array, field.type) for array, field in zip(arrays, INDEX, strict=True)], INDEX)

    def costs(self) -> pa.Table:
        """COSTS."""
        settings, count = self.recipe.context, len(self.draws)
        seen = [tiles(*size, most=settings.tiles, thumbnail=settings.thumbnail) for size in self.sizes] or [0]
        lengths, which = np.unique(self.samples, return_inverse=True)
        sound = np.array([audio_tokens(length, settings.audio) for length in lengths.tolist()], np.int32)[which]
        film = self.row.seen == "video"
        columns = {
            "key": _keys(self.draws),
            "answers": pa.array(self.words),
            "read": _lists(self.question + 5),
            "heard": _lists(np.full(count, 5, np.int32)),
            "speakable": _lists(self.speakable),
            "tiles": pa.array(np.array(seen, np.int32)[self.size]),
            "frames": pa.array((4 + _choice(self.draws, "frames", 13)).astype(np.int32) * np.int32(film)),
            "audio_tokens": pa.array(sound),
            "seconds": pa.array(self.samples / 16_000),
        }
        return pa.table([_typed(columns[field.name], field.type) for field in COSTS], COSTS)


def _origins(row: Row, draws: Draws, numbers: npt.NDArray[Any], store: Store) -> Stored:
    """Where each record came from: one file of a line each."""
    begin = numbers.astype(np.int64) * 400
    columns = [_keys(draws), pa.array(numbers).cast(pa.string()), _same(f"{row.name}.jsonl", len(draws)),
               pa.array(begin), pa.array(begin + 399)]  # fmt: skip
    arrays = [_typed(column, field.type) for column, field in zip(columns, ORIGINS, strict=True)]
    return put_table(store, f"origins/{row.name}/part", pa.table(arrays, ORIGINS))


def _sidecars(row: Row, draws: Draws, numbers: npt.NDArray[Any], recipe: Recipe, store: Store) -> SpeechState | None:
    """What `tarsia speak` would have left for stage 2.2: in the order of the coin, until half of all are accepted."""
    stage = recipe.stages["2.2"]
    take = next((take for take in stage.takes if take.kind is Kind(row.kind)), None)
    if take is None or stage.spoken is None:
        return None
    first = int(np.searchsorted(draws, np.uint64(start(recipe.seed))))
    rows = (first + np.arange(take.amount.of(len(draws)))) % len(draws)
    walked = rows[np.argsort(redraws(draws[rows], "spoken"))]
    speakable = _Facts(row, draws[walked], numbers[walked], recipe).speakable
    refused = redraws(draws[walked], "refused") < np.uint64(0.05 * 2**64)
    reached = np.cumsum(speakable & ~refused)
    decided = np.sort(walked[speakable & (reached <= stage.spoken.of(len(rows)))])
    mine, shards = draws[decided], []
    facts = _Facts(row, mine, numbers[decided], recipe)
    table = _speech(facts, redraws(mine, "refused") < np.uint64(0.05 * 2**64))
    for leaf in leaves(mine, CAP):
        part = _ranged(table.slice(leaf.begin, leaf.end - leaf.begin), 9_000)
        stored = put_table(store, f"speech/{POOL}/{row.name}/{leaf.name}", part)
        shards.append(_shard(leaf.name, stored, len(part)))
    return SpeechState(pool=POOL, corpus=row.name, shards=tuple(shards))


def _speech(facts: _Facts, refused: npt.NDArray[np.bool_]) -> pa.Table:
    """SPEECH: a clip or a refusal of the only question of each sample."""
    draws, count = facts.draws, int((~refused).sum())
    length = (8_000 + facts.question.astype(np.int64) * 4_000 + _choice(draws, "clip", 8_000))[~refused]
    kept = draws[~refused]
    clip = {
        "turn": pa.array(np.zeros(count, np.int32)),
        "member": _same("q0.flac", count),
        "clip": _keys(kept),
        "engine": _same("bench", count),
        "voice": _same("anyone", count),
        "spoken": _same("", count),
        "samples": pa.array(length * 3 // 2),
        "rate": pa.array(np.full(count, 24_000, np.int32)),
        "samples16": pa.array(length),
        "heard": pa.nulls(count, pa.string()),
        "missed": pa.nulls(count, pa.float64()),
    }
    clips = pa.StructArray.from_arrays([_typed(clip[field.name], field.type) for field in CLIP], fields=list(CLIP))
    kind, no = SPEECH.field("refused").type.value_type, int(refused.sum())
    refusals = pa.StructArray.from_arrays([pa.array(np.zeros(no, np.int32)), pa.array(["silence"] * no, pa.string())],
                                          fields=list(kind))  # fmt: skip
    columns = {
        "key": _keys(draws),
        "draw": pa.array(draws),
        "record": _hex(redraws(draws, "record"), redraws(draws, "of")),
        "clips": _some(~refused, clips),
        "refused": _some(refused, refusals),
        "offset": pa.array(np.zeros(len(draws), np.int64)),
        "length": pa.array(np.full(len(draws), 9_000)),
        "checksum": pa.array(redraws(draws, "speech checksum")),
    }
    return pa.table([_typed(columns[field.name], field.type) for field in SPEECH], SPEECH)


def _ranged(table: pa.Table, size: int) -> pa.Table:
    """A shard's table, its samples one behind the other."""
    offsets = pa.array(np.arange(len(table)) * size)
    return table.set_column(table.schema.get_field_index("offset"), "offset", offsets)


def _shard(leaf: str, index: Stored, samples: int) -> Shard:
    tar = Stored(path=index.path.replace(".parquet", ".tar"), bytes=samples * 51_200, digest=index.digest)
    return Shard(leaf=leaf, samples=samples, questions=samples, objects=(tar, index))


def _choice(draws: Draws, purpose: str, count: int) -> npt.NDArray[np.int64]:
    return (redraws(draws, purpose) % np.uint64(count)).astype(np.int64)


def _normal(draws: Draws, purpose: str) -> npt.NDArray[np.float64]:
    """Box and Muller's normal numbers, from two draws."""
    one, two = (redraws(draws, f"{purpose} {part}").astype(np.float64) / 2**64 for part in (1, 2))
    return np.asarray(np.sqrt(-2 * np.log1p(-np.minimum(one, 1 - 1e-12))) * np.cos(2 * np.pi * two))


def _typed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(array.type):
        return array.dictionary_encode().cast(kind)
    return array.cast(kind)


def _same(name: str, count: int) -> pa.Array:
    return pa.array([name]).take(pa.array(np.zeros(count, np.int64)))


def _each(columns: list[pa.Array], kind: pa.DataType, *, there: bool) -> pa.ListArray:
    """One struct in every list, or none in any."""
    count, fields = len(columns[0]), list(kind.value_type)
    values = pa.StructArray.from_arrays(columns, fields=fields)
    return _some(np.full(count, there), values if there else values[:0])


def _lists(values: npt.NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), pa.array(values))


def _some(there: npt.NDArray[np.bool_], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(there)]).astype(np.int32)), values)


def _keys(draws: Draws) -> pa.StringArray:
    return _hex(draws, redraws(draws, "key"))


def _hex(high: Draws, low: Draws) -> pa.StringArray:
    """Strings of 32 hex digits."""
    text = np.stack([high, low], axis=1).astype(">u8").tobytes().hex().encode()
    offsets = pa.py_buffer((np.arange(len(high) + 1) * 32).astype(np.int32))
    return pa.StringArray.from_buffers(len(high), offsets, pa.py_buffer(text))


if __name__ == "__main__":
    main()
