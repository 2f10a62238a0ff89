"""The order of contexts, over epochs: no length, corpus or padding drifts with position, and reading stays local."""

import numpy as np
import pyarrow as pa
import pytest
from lakes import recipe

from tarsia.builders.tables import packed
from tarsia.manifests import rooms
from tarsia.manifests.facts import Corpus
from tarsia.manifests.order import Order
from tarsia.manifests.plan import PROMPTS, plan
from tarsia.schemas.corpus import Corpus as Entry
from tarsia.schemas.identity import redraws, start
from tarsia.schemas.lake import CorpusState
from tarsia.schemas.shard import Shard, Stored

SIZES = {"short": 60_000, "long": 20_000, "small": 800}  # samples
SCALES = {"short": 40, "long": 120, "small": 60}  # tokens of an answer; tenths of a second
STAGES = {
    "packed": {"take": {"asr": "100%"}},
    "again": {"take": {"asr": "100%"}},
    "batches": {"take": {"asr": "100%"}, "pack": {"seconds": 20}},
    "twice": {"take": {"asr": "200%"}, "pack": {"seconds": 20}},
}
PAGE = recipe(STAGES, tokens=1024, prompt="none")
EPOCHS = 3
WINDOW = 10_000  # samples; smaller than the planner's, so that there are several


def corpus(name: str, count: int) -> Corpus:
    """Recordings whose lengths differ tenfold."""
    draws = np.sort(redraws(np.arange(count, dtype=np.uint64), name))
    length = 1 + (redraws(draws, "length") % np.uint64(2 * SCALES[name])).astype(np.int32)
    zeros, ones, keys = (
        np.zeros(count, np.int32),
        np.ones(count, np.int32),
        packed(pa.array([f"{draw:016x}" * 2 for draw in draws.tolist()]), 16),
    )
    lists = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), pa.array(zeros))
    names = {"language": "en", "modality": "audio"}
    index = {"key": keys, "questions": ones, "offset": zeros.astype(np.int64)}
    index |= {"length": ones.astype(np.int64), "checksum": draws}
    index |= {field: pa.DictionaryArray.from_arrays(pa.array(zeros), [value]) for field, value in names.items()}
    costs = {"answers": length, "read": lists, "heard": lists, "speakable": lists, "tiles": zeros, "frames": zeros}
    costs |= {"audio_tokens": zeros, "seconds": length / 10}
    entry = Entry.model_validate(
        {"name": name, "format": "librispeech", "kind": "asr", "language": "en", "licence": "CC0", "root": "."}
    )
    stored = Stored(path=f"corpora/{name}/b.tar", bytes=1, digest="0" * 64)
    shard = Shard(leaf="b", samples=count, questions=count, objects=(stored,) * 3)
    state = CorpusState(corpus=entry, source="", records=count, shards=(shard,))
    return Corpus(state, pa.table(index), zeros, pa.table(costs), None, None, np.empty(0, np.int32))


@pytest.fixture(scope="module")
def planned():
    corpora = [corpus(name, count) for name, count in SIZES.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "LOT", WINDOW)
        return {name: plan(PAGE, name, corpora, dict.fromkeys(PROMPTS, 0)) for name in STAGES}


def rows_of(one):
    """SAMPLES as one table."""
    return pa.concat_tables(one.samples.tables())


def measured(one):
    """Of every context its mean length, the shares of its corpora, its padding, and where in their arcs samples lie."""
    contexts, samples = one.contexts, rows_of(one)
    first, size = contexts["first"].to_numpy(), contexts["samples"].to_numpy()
    names = np.array(samples["corpus"].to_pylist())
    told = {"length": np.add.reduceat(samples["seconds"].to_numpy(), first) / size, "samples": size}
    for name in SIZES:
        told[name] = np.add.reduceat((names == name).astype(float), first) / size
    if contexts["padded_seconds"].null_count == 0:
        told["padding"] = contexts["padded_seconds"].to_numpy() / contexts["seconds"].to_numpy()
    return told


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_drifts_with_position_in_any_epoch(planned, stage):
    count = len(planned[stage].contexts)
    order = Order("5" * 64, count)
    for name, values in measured(planned[stage]).items():
        for epoch in range(EPOCHS):
            drift = np.corrcoef(np.arange(count), values[order.epoch(epoch)])[0, 1]
            assert abs(drift) < 4 / np.sqrt(count), (name, epoch)


@pytest.mark.parametrize("stage", STAGES)
def test_the_mixture_holds_in_every_window_of_contexts(planned, stage):
    contexts, samples = planned[stage].contexts, rows_of(planned[stage])
    window = samples["context"].to_numpy() // 256
    names = np.array(samples["corpus"].to_pylist())
    tokens = samples["tokens"].to_numpy()
    for number in range(len(contexts) // 256):
        here = window == number
        for name in SIZES:
            share, whole = (tokens[at & (names == name)].sum() / tokens[at].sum() for at in (here, window >= 0))
            assert abs(share - whole) < 0.1


def windows(one):
    """Of each window of contexts, where in their arc its samples lie, from 0 to 1, sorted."""
    draws = rows_of(one)["checksum"].to_numpy() - np.uint64(start(PAGE.seed))  # round the circle
    count = round(sum(SIZES.values()) / WINDOW)
    number = rows_of(one)["context"].to_numpy() * count // len(one.contexts)
    return [np.sort(draws[number == window] / 2**64) for window in range(count)]


@pytest.mark.parametrize("stage", ["packed", "again", "batches"])
def test_a_window_reads_a_contiguous_part_of_every_corpus(planned, stage):
    """Most of it does: some samples have waited in the window before, some lie beyond a border."""
    found = windows(planned[stage])
    assert len(found) == 8
    for mine in found:
        assert mine[len(mine) * 7 // 8] - mine[len(mine) // 8] < 1 / len(found)


def test_stages_of_one_seed_do_not_go_through_a_corpus_in_the_same_order(planned):
    """Epoch 0 of both; later epochs follow from the digests of their manifests."""
    one, other = (
        np.argsort([np.median(mine) for mine in windows(planned[name])]).tolist() for name in ("packed", "again")
    )
    assert sorted(one) == sorted(other) == list(range(len(one)))
    assert one != other
    assert one != sorted(one)


def test_the_second_copies_of_a_stage_follow_the_first(planned):
    samples = rows_of(planned["twice"])
    copy, context = samples["copy"].to_numpy(), samples["context"].to_numpy()
    assert context[copy == 0].max() < context[copy == 1].min()
