"""Batches by seconds: whole, within their budget, as few as can be; stages of speech from end to end."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes import fill, plan, questions, recipe, recordings, rows, say, spell

from tarsia.builders.buckets import ALIKE, bucket, fewest
from tarsia.builders.lake import Lake
from tarsia.builders.tokens import tokenizer
from tarsia.manifests.audit import audit
from tarsia.manifests.collate import CHATS, Decoder
from tarsia.manifests.stream import Stream
from tarsia.manifests.utterances import form_of
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.show import planned
from tarsia.schemas.errors import UserError

LENGTHS = st.lists(st.integers(1, 100), max_size=80)


def batches(lengths, **options):
    packing = bucket(np.array(lengths, np.int64), 100, options.pop("most", 7), seed=1, **options)
    return [packing.members[begin:end].tolist() for begin, end in pairwise(packing.starts)], packing


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 40))
def test_every_sample_is_in_one_batch_that_keeps_within_its_budget_and_its_window(lengths, most, window):
    found, packing = batches(lengths, most=most, window=window)
    assert sorted(sample for batch in found for sample in batch) == list(range(len(lengths)))
    for batch in found:
        assert batch == sorted(batch)
        assert 1 <= len(batch) <= most
        longest = max(lengths[sample] for sample in batch)
        assert longest * len(batch) <= 100
        assert all(5 * lengths[sample] >= 4 * longest for sample in batch)
    windows = max(1, round(len(lengths) / window))
    edges = [number * len(lengths) // windows for number in range(windows + 1)]
    of_sample = [sum(edge <= sample for edge in edges[1:]) for batch in found for sample in batch]
    assert of_sample == sorted(of_sample)
    assert all(len({sum(edge <= sample for edge in edges[1:]) for sample in batch}) == 1 for batch in found)
    assert packing.bound <= len(found)
    assert batches(lengths, most=most, window=window)[0] == found


def least(lengths, budget, most, alike):
    """The fewest batches, by trying all: the longest that is left goes with any others."""
    if not lengths:
        return 0
    longest, rest = lengths[0], lengths[1:]
    sets = [[]]
    for number in range(len(rest)):
        sets += [[*chosen, number] for chosen in sets]
    return 1 + min(
        least([length for number, length in enumerate(rest) if number not in chosen], budget, most, alike)
        for chosen in sets
        if len(chosen) < most
        and longest * (len(chosen) + 1) <= budget
        and all(rest[number] >= alike * longest for number in chosen)
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=6), st.integers(1, 4))
def test_one_window_has_the_fewest_batches_of_samples_that_are_alike(lengths, most):
    array, falling = np.array(lengths, np.int64), sorted(lengths, reverse=True)
    packing = bucket(array, 20, most, seed=1)
    assert len(packing.starts) - 1 == least(falling, 20, most, ALIKE)
    assert packing.bound == fewest(array, 20, most)[0] == least(falling, 20, most, 0)


@pytest.mark.parametrize(("count", "most"), [(20, 0.25), (200, 0.25), (2_000, 0.1), (50_000, 0.01)])
def test_a_stage_of_any_size_is_hardly_padded(count, most):
    """Lengths between half a second and thirty, most around four: what a corpus of speech has."""
    lengths = np.clip(np.random.default_rng(1).lognormal(1.4, 0.6, count) * 1000, 500, 30_000).astype(np.int64)
    packing = bucket(lengths, 600_000, 1000, seed=1)
    longest = np.maximum.reduceat(lengths[packing.members], packing.starts[:-1])
    assert (longest * np.diff(packing.starts)).sum() / lengths.sum() - 1 <= most
    assert len(packing.starts) - 1 <= packing.bound + 19  # as many as there are steps of 4/5 from 30 s down to half


def test_what_sets_the_bound_is_the_seconds_or_the_cap_of_samples():
    assert fewest(np.full(60, 10), 100, 10) == (6, "seconds")
    assert fewest(np.full(60, 10), 100, 5) == (12, "samples")
    assert fewest(np.empty(0, np.int64), 100, 5) == (0, "seconds")


def test_batches_are_an_order_that_others_rely_on():
    """Golden: a change needs an ORDER entry."""
    lengths = np.arange(1, 41) * 7 % 41
    packing = bucket(lengths, 100, 9, seed=5, window=20)
    assert packing.starts.tolist() == GOLDEN_STARTS
    assert packing.members.tolist() == GOLDEN_MEMBERS


GOLDEN_STARTS = [0, 1, 3, 5, 6, 9, 13, 14, 16, 19, 20, 22, 24, 25, 28, 31, 33, 35, 38, 40]
GOLDEN_MEMBERS = [
    *(5, 4, 15, 3, 9, 0, 6, 12, 18, 1, 7, 13, 19, 17, 10, 16, 2, 8, 14, 11),
    *(22, 39, 25, 31, 23, 24, 30, 36, 21, 27, 33, 29, 35, 20, 37, 26, 32, 38, 28, 34),
]


@pytest.mark.parametrize("length", [0, 101])
def test_a_length_that_no_batch_can_hold_is_named(length):
    with pytest.raises(ValueError, match=f"sample 1 lasts {length}; a batch takes samples of 1 to 100"):
        batches([5, length])


# --- stages ---------------------------------------------------------------------------------------------------------

SPEECH = {"format": "librispeech", "kind": "asr", "root": "LibriSpeech"}
SECONDS = [0.5 + number % 7 / 4 for number in range(30)]
STEPS = {"a": {"title": "hear", "train": ["ears"], "form": "ctc"}, "b": {"title": "write", "train": ["pen"]}}
STAGES = {
    "plain": {"take": {"asr": "100%"}, "pack": {"seconds": 6}},
    "steps": {"take": {"asr": "100%"}, "pack": {"seconds": 6}, "train": ["ears", "pen"], "steps": STEPS, "guide": 25},
    "twice": {"take": {"asr": "200%"}, "pack": {"seconds": 6, "samples": 3}},
}
REQUEST = {"en": "Write down what is said."}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Thirty recordings in three stages."""
    folder = tmp_path_factory.mktemp("buckets")
    recordings(folder, SECONDS)
    filled = fill(folder, {"talk": (SPEECH, None)})
    plan(filled, recipe(STAGES, request=REQUEST))
    return filled


def manifest_of(lake, stage):
    return Stream(lake.url, f"small/{stage}").manifest


@pytest.mark.parametrize("stage", STAGES)
def test_a_context_of_a_speech_stage_is_a_batch_with_its_padding_and_the_audit_agrees(lake, stage):
    manifest = manifest_of(lake, stage)
    samples, contexts = rows(lake, manifest), rows(lake, manifest, "contexts")
    real = padded = 0.0
    for context in contexts:
        mine = [row["seconds"] for row in samples if row["context"] == context["context"]]
        assert context["padded_seconds"] == max(mine) * len(mine) <= 6
        assert (context["samples"], context["prompt"]) == (len(mine), "sample")
        assert context["seconds"] == pytest.approx(sum(mine))
        real, padded = real + sum(mine), padded + context["padded_seconds"]
    assert manifest.padding == pytest.approx(padded / real - 1)
    assert manifest.fill == pytest.approx(real / 6 / len(contexts))
    assert manifest.bound <= manifest.contexts == len(contexts)
    assert manifest.binding == ("samples" if stage == "twice" else "seconds")
    assert not audit(lake, [manifest], recipe=recipe(STAGES, request=REQUEST), deep=True).findings


def test_what_a_batch_is_said_to_be_is_recounted(lake):
    manifest = manifest_of(lake, "plain")
    wrong = {"padding": manifest.padding + 0.01, "fill": manifest.fill / 2, "bound": manifest.bound - 1}
    for field, value in wrong.items():
        (finding,) = audit(lake, [manifest.model_copy(update={field: value})]).findings
        assert finding.what.startswith(f"{field}: recorded {value}, found ")
    shorter = manifest.stage.model_copy(update={"pack": manifest.stage.pack.model_copy(update={"seconds": 5.0})})
    found = [one.what for one in audit(lake, [manifest.model_copy(update={"stage": shorter})]).findings]
    assert any(what.startswith("contexts that are not the sum of their samples") for what in found)


def test_copies_of_a_recording_are_never_in_one_batch(lake):
    manifest = manifest_of(lake, "twice")
    for context in range(manifest.contexts):
        mine = [row["key"] for row in rows(lake, manifest) if row["context"] == context]
        assert len(mine) == len(set(mine))


def test_the_table_of_a_plan_shows_batches_and_padding(lake):
    manifest = manifest_of(lake, "plain")
    head, line = planned([manifest]).splitlines()
    assert "contexts  bound   fill  padding" in head
    assert f"{manifest.padding:.2%}" in line


def test_packed_tars_of_batches_hold_what_the_shards_do(lake):
    straight = [Stream(lake.url, "small/steps", packed=False).context(number) for number in range(3)]
    with open_pool(1) as workers:
        pack(Lake(lake.url), ["small/steps"], workers, quiet=True)
    packed = Stream(lake.url, "small/steps")
    assert [packed.context(number) for number in range(3)] == straight
    assert not audit(lake, [packed.manifest], deep=True).findings


def test_what_lasts_too_long_or_has_no_sound_is_listed_with_its_reason(tmp_path):
    recordings(tmp_path, [1.0, 2.5, 1.5])
    lake = fill(tmp_path, {"talk": (SPEECH, None), "chat": questions(2)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"asr": "100%", "qa": "100%"}, "pack": {"seconds": 2}}}))
    reasons = sorted(row["reason"] for row in rows(lake, manifest, "unplaced"))
    silent = "silent: no sound to be batched by"
    assert reasons == ["over-lasting: 2.500 seconds, room for 2.000", silent, silent]
    assert sum(count.placed for count in manifest.counts) == 2
    assert not audit(lake, [manifest], deep=True).findings


# --- forms and steps ------------------------------------------------------------------------------------------------

QWEN = tokenizer("qwen2.5")


def decoded(lake, stage, step=None):
    stream = Stream(lake.url, f"small/{stage}")
    return stream, list(Decoder(stream.manifest.context, form_of(stream.manifest.stage, step))(stream))


def test_the_steps_of_a_stage_are_two_forms_of_the_same_batches(lake):
    stream, hearing = decoded(lake, "steps", "a")
    _, writing = decoded(lake, "steps", "b")
    assert [batch.keys for batch in hearing] == [batch.keys for batch in writing]
    assert len(hearing) == stream.manifest.contexts
    assert {"features", "words"} < set(hearing[0].arrays)
    for one, other in zip(hearing, writing, strict=True):
        assert len(one["words"]) == len(other["ids"]) == len(one.keys[0])
        assert np.array_equal(one["features"], other["features"])


def test_a_row_of_a_batch_is_one_recording_under_its_own_prompt_after_its_guide_and_its_request(lake):
    stream, writing = decoded(lake, "steps", "b")
    lengths = {row["key"]: row["tokens"] for row in rows(lake, stream.manifest)}
    words = sorted(say(number, 6).upper() for number in range(len(SECONDS)))
    told = []
    for batch in writing:
        ids = batch["ids"]
        assert [lengths[key] for key in batch.keys[0]] == batch["lens"].tolist()
        assert len(batch["guides_at"]) == len(ids)
        assert (batch["guides_at"] + 25 == batch["features_at"]).all()
        assert (ids.reshape(-1)[batch["guides_at"][:, None] + np.arange(25)] == QWEN.control("<|endoftext|>")[0]).all()
        for row, size, at, tokens in zip(
            ids, batch["lens"], batch["features_at"], batch["features_tokens"], strict=True
        ):
            begin = at % ids.shape[1]
            before, after = spell(row[: begin - 25]), spell(row[begin + tokens : size])
            assert before.startswith("<|im_start|>system\n")
            assert before.endswith("<|im_start|>user\n")
            question, _, answer = after.partition("<|im_end|>\n<|im_start|>assistant\n☞")
            assert question == REQUEST["en"]
            told.append(answer.removesuffix("<|im_end|>"))
    assert sorted(told) == words


def test_a_step_must_be_named_where_there_are_some_and_only_there(lake):
    with pytest.raises(UserError, match="has steps a, b; say which"):
        form_of(manifest_of(lake, "steps").stage)
    with pytest.raises(UserError, match="has steps a, b; no c"):
        form_of(manifest_of(lake, "steps").stage, "c")
    with pytest.raises(UserError, match="has steps none; no a"):
        form_of(manifest_of(lake, "plain").stage, "a")
    assert form_of(recipe({"x": {"take": {"qa": "5%"}}}).stages["x"]) is CHATS


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"pack": {"seconds": 9, "tiles": 3}}, "tiles: batches by seconds have no such key"),
        ({"pack": {"seconds": 9, "alone": "qa"}}, "alone: batches by seconds have no such key"),
        ({"pack": {"samples": 3}}, "samples: only batches by seconds have such key"),
        ({"pack": {"seconds": 9}, "spoken": "5%"}, "spoken: some questions stay written, and batches by seconds"),
        ({"steps": STEPS}, r"steps: they train \['ears', 'pen'\], the stage \['llm'\]; these are the same modules"),
        ({"form": "song"}, "form"),
    ],
)
def test_stages_that_cannot_be_are_refused(stage, said):
    with pytest.raises(ValueError, match=said):
        recipe({"x": {"take": {"asr": "5%"}, **stage}})


@pytest.mark.parametrize("said", ["", " hm", "<audio> hm", "<|im_end|>"])
def test_a_request_is_words(said):
    with pytest.raises(ValueError, match="must be words, without placeholders or blanks around them"):
        recipe({"x": {"take": {"asr": "5%"}}}, request={"en": said})
