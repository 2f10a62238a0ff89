"""What a recipe asks is what a stage gets: every amount, narrowing and setting, from plan to audit."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from lakes import (
    chats,
    clips,
    fill,
    keys,
    pictures,
    plan,
    questions,
    recipe,
    recordings,
    rendered_tokens,
    rows,
    tone,
    voice,
)

from tarsia.builders.documents import read_recipe
from tarsia.builders.tokens import audio_tokens, tokenizer
from tarsia.manifests.audit import audit
from tarsia.pipelines.show import asked as shown
from tarsia.pipelines.show import planned
from tarsia.schemas.errors import BadRecipe, Drift, UnknownName
from tarsia.schemas.recipe import Amount, Context, Pack, Recipe, Take

LLAVA = {"format": "llava"}
SPEECH = {"format": "librispeech", "files": "LibriSpeech/*/*/*/*.trans.txt"}


def total(manifest, name, **group):
    mine = [one for one in manifest.counts if all(getattr(one, field) == value for field, value in group.items())]
    return sum(getattr(one, name) for one in mine)


def asked(manifest, unit):
    return [(ask.corpus, getattr(ask, unit)) for ask in manifest.asks]


def found(lake, *manifests, page=None, deep=False):
    return audit(lake, manifests, recipe=page, deep=deep).findings


def taking(*takes, **stage):
    return {"take": [{"kind": "qa", **take} for take in takes], **stage}


def seconds(number):
    return 1 + number % 5 / 2


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Sums in two languages, chats of one to three questions, pictures, speech to learn and speech to ignore."""
    folder = tmp_path_factory.mktemp("lake")
    sums = questions(60, words=40)
    for number in range(0, 60, 3):
        sums[number]["output"] = f"第{number}艘船很小，海很平静。"
    sizes = [(640, 480), (300, 300), (480, 900), (900, 900)] * 5
    (folder / "said").mkdir()
    recordings(folder, [seconds(number) for number in range(20)])
    recordings(folder / "said", [1.0] * 6)
    corpora = {
        "sums": ({"language": "zh+en", "tags": ["text"]}, sums),
        "talk": ({**LLAVA, "tags": ["text", "chat"]}, chats(30)),
        "looks": ({**LLAVA, "tags": ["image"]}, pictures(folder, sizes)),
        "heard": ({**SPEECH, "kind": "asr"}, None),
        "noise": ({**SPEECH, "kind": "noise", "root": "said"}, None),
    }
    return fill(folder, corpora)


# --- amounts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [("20 %", "20%"), ("20.50%", "20.5%"), ("10% from 5%", "10% from 5%"), ("1.5M questions", "1500K questions"),
     ("474K samples", "474K samples"), ("2B tokens", "2B tokens"), ("1001 samples", "1001 samples"), ("3 h", "3h"),
     ("200%", "200%"), ("0 tokens", "0 tokens")],
)  # fmt: skip
def test_amounts_are_said_in_one_way(written, said):
    assert str(Amount.model_validate(written)) == said
    assert Amount.model_validate(said) == Amount.model_validate(written)


@given(st.decimals(0, 100, places=4), st.decimals(0, 300, places=4), st.integers(0, 10**7))
def test_a_range_is_the_difference_of_two_shares(begin, share, count):
    if begin + share > 100 and begin:
        return
    amount = Amount.model_validate(f"{share:f}% from {begin:f}%" if begin else f"{share:f}%")
    whole = round((Fraction(begin) + Fraction(share)) * count / 100)
    assert amount.skipped(count) + amount.of(count) == whole
    assert amount.skipped(count) == round(Fraction(begin) * count / 100)


def test_samples_are_divided_by_what_each_corpus_has_and_smaller_amounts_lie_in_larger(lake):
    stages = {f"{count}": taking({"amount": f"{count} samples"}) for count in (11, 40, 110)}
    less, more, all_ = plan(lake, recipe(stages), replace=True)
    assert asked(less, "samples") == [("looks", 2), ("sums", 6), ("talk", 3)]
    assert asked(more, "samples") == [("looks", 7), ("sums", 22), ("talk", 11)]
    assert keys(lake, less) < keys(lake, more) < keys(lake, all_)
    assert [total(one, "selected") for one in (less, more, all_)] == [11, 40, 110]
    assert not found(lake, less, more, all_)


def test_questions_are_reached_by_the_fewest_samples(lake):
    (manifest,) = plan(lake, recipe({"x": taking({"corpus": "talk", "amount": "25 questions"})}), replace=True)
    (ask,) = manifest.asks
    assert (ask.questions, ask.available_questions, ask.samples) == (25, 60, None)
    counts = [row["questions"] for row in rows(lake, manifest)]
    assert 25 <= sum(counts) < 25 + max(counts)
    assert not found(lake, manifest)


def test_tokens_are_reached_by_the_fewest_samples_and_the_audit_counts_all_there_are(lake):
    (manifest,) = plan(lake, recipe({"x": taking({"modality": "text", "amount": "2K tokens"})}), replace=True)
    assert sum(number for _, number in asked(manifest, "tokens")) == 2000
    assert 2000 <= total(manifest, "selected_tokens") < 2000 + 2 * max(row["tokens"] for row in rows(lake, manifest))
    assert not found(lake, manifest)
    wrong = manifest.asks[0].model_copy(update={"available_tokens": manifest.asks[0].available_tokens + 1})
    said = found(lake, manifest.model_copy(update={"asks": (wrong, *manifest.asks[1:])}), deep=True)
    assert any("tokens in the lake" in finding.what for finding in said)


def test_less_than_asked_is_taken_once_and_told(lake):
    stages = {
        "samples": taking({"amount": "5K samples"}),
        "questions": taking({"corpus": "sums", "amount": "1K questions"}),
        "hours": {"take": {"asr": "3h"}, "pack": False},
        "none": {"take": {"tts": "3h"}, "pack": False},
    }
    manifests = plan(lake, recipe(stages), replace=True)
    assert [total(one, "selected") for one in manifests] == [110, 60, 20, 0]
    assert sum(number for _, number in asked(manifests[0], "samples")) == 5000
    said = planned(manifests)
    assert "samples: take qa: 5K samples asked, the lake has 110 samples; all of it is taken, once" in said
    assert "questions: take qa (corpus sums): 1K questions asked, the lake has 60 questions" in said
    assert "hours: take asr: 3h asked, the lake has 0.011h" in said
    assert "none: take tts: the lake has none" in said
    assert not found(lake, *manifests)


def test_two_ranges_part_a_corpus_and_only_prefixes_must_nest(lake):
    stages = {"first": taking({"amount": "30%"}), "rest": taking({"amount": "70% from 30%"})}
    first, rest = plan(lake, recipe(stages), replace=True)
    assert asked(first, "samples") == [("looks", 6), ("sums", 18), ("talk", 9)]
    assert asked(rest, "samples") == [("looks", 14), ("sums", 42), ("talk", 21)]
    assert keys(lake, first).isdisjoint(keys(lake, rest))
    assert len(keys(lake, first) | keys(lake, rest)) == 110
    assert not found(lake, first, rest)


def test_a_cap_is_for_each_corpus(lake):
    (manifest,) = plan(lake, recipe({"x": taking({"amount": "50%", "cap": "12 samples"})}), replace=True)
    assert asked(manifest, "samples") == [("looks", 10), ("sums", 12), ("talk", 12)]
    assert total(manifest, "selected") == 34
    assert not found(lake, manifest)


# --- copies ---------------------------------------------------------------------------------------------------------


def test_two_and_a_half_times_is_every_sample_twice_and_half_of_them_again_never_two_in_a_context(lake):
    page = recipe({"x": taking({"tag": "text", "amount": "250%"}), "one": taking({"tag": "text", "amount": "50%"})})
    manifest, half = plan(lake, page, replace=True)
    placed = rows(lake, manifest)
    often = {}
    for row in placed:
        often.setdefault(row["key"], []).append(row["copy"])
    assert (len(placed), len(often)) == (225, 90)
    assert {tuple(sorted(copies)) for copies in often.values()} == {(0, 1), (0, 1, 2)}
    assert {key for key, copies in often.items() if len(copies) == 3} == keys(lake, half)
    pairs = [(row["context"], row["key"]) for row in placed]
    assert len(pairs) == len(set(pairs))
    assert manifest.contexts >= 3
    assert not found(lake, manifest, half, page=page)


@pytest.mark.parametrize("share", ["101%", "150%", "200%", "730%"])
def test_copies_of_a_sample_are_a_round_apart(lake, share):
    (manifest,) = plan(lake, recipe({"x": taking({"amount": share}, pack={"tokens": 4000})}), replace=True)
    for corpus in ("sums", "talk", "looks"):
        first = {}
        for row in rows(lake, manifest):
            if row["corpus"] == corpus:
                first.setdefault(row["copy"], []).append(row["context"])
        assert sorted(first) == list(range(len(first)))
        assert sorted(first, key=lambda copy: sum(first[copy]) / len(first[copy])) == sorted(first)
    assert not found(lake, manifest)


def test_questions_of_copies_are_heard_each_for_itself(tmp_path, monkeypatch):
    pool, page = tone(tmp_path, monkeypatch), recipe({"x": taking({"amount": "200%"}, spoken="50%")})
    lake = fill(tmp_path, {"sums": questions(30), "talk": (LLAVA, chats(9))})
    voice(lake, page, pool)
    (manifest,) = plan(lake, page, voices="tone")
    assert [(ask.corpus, ask.samples, ask.spoken) for ask in manifest.asks] == [("sums", 60, 30), ("talk", 18, 18)]
    assert total(manifest, "spoken") == 48
    heard = {(row["key"], row["copy"]): row["spoken"] for row in rows(lake, manifest)}
    assert any(heard[key, 0] != heard[key, 1] for key, _ in heard)
    for row in rows(lake, manifest, "contexts"):
        assert row["tokens"] == rendered_tokens(lake, manifest, row["context"])
    assert not found(lake, manifest, page=page, deep=True)
    assert found(lake, manifest.model_copy(update={"seed": 2}))


# --- what is asked --------------------------------------------------------------------------------------------------


def test_a_sample_belongs_to_the_first_take_that_admits_it(lake):
    page = recipe({"x": taking(
        {"language": "zh", "amount": "50%"},
        {"tag": ["chat", "image"], "modality": "text", "amount": "10%"},
        {"amount": "20%"},
    ), "zh": taking({"language": "zh", "amount": "100%"})})  # fmt: skip
    manifest, chinese = plan(lake, page, replace=True)
    assert [(ask.take, ask.corpus, ask.available, ask.samples) for ask in manifest.asks] == [
        (0, "sums", 20, 10), (1, "talk", 30, 3), (2, "looks", 20, 4), (2, "sums", 40, 8),
    ]  # fmt: skip
    assert total(manifest, "selected", corpus="sums", language="zh") == 10
    assert total(manifest, "selected", corpus="sums", language="en") == 8
    assert keys(lake, manifest, "sums") & keys(lake, chinese) < keys(lake, chinese)
    assert not found(lake, manifest, chinese, page=page)
    lines = [line.split()[1:6] for line in shown([manifest]).splitlines()[1:]]
    assert lines == [
        ["qa", "sums", "zh", "text", "50%"], ["qa", "talk", "en", "text", "10%"], ["qa", "looks", "en", "image", "20%"],
        ["qa", "sums", "en", "text", "20%"],
    ]  # fmt: skip


def test_noise_is_taken_like_any_kind_and_stays_alone(lake):
    page = recipe({"x": {"take": {"qa": "100%", "noise": "4 samples"}}}, audio="vita")
    (manifest,) = plan(lake, page, replace=True)
    assert total(manifest, "placed", kind="noise") == 4
    contexts = {row["context"] for row in rows(lake, manifest) if row["kind"] == "noise"}
    assert [len([row for row in rows(lake, manifest) if row["context"] == number]) for number in contexts] == [1] * 4
    assert not found(lake, manifest)


def test_a_stage_that_names_its_corpora_is_not_disturbed_by_others(tmp_path):
    lake = fill(tmp_path, {"a": questions(20)})
    page = recipe({"x": taking({"corpus": "a", "amount": "50%"})})
    (before,) = plan(lake, page)
    fill(tmp_path, {"a": questions(20), "b": questions(9)})
    assert plan(lake, page) == [before]


@pytest.mark.parametrize(
    ("take", "error", "said"),
    [
        ({"corpus": "sum"}, UnknownName, "stage x: take qa .corpus sum.: no corpus 'sum'; did you mean 'sums'"),
        ({"tag": "chats"}, UnknownName, "no tag 'chats'; did you mean 'chat'. Known: chat, image, text"),
        ({"corpus": "heard"}, BadRecipe, "corpus 'heard' is of kind asr"),
        ({"corpus": "talk", "tag": "image"}, BadRecipe, "corpus 'talk' is of kind qa and its tags are text, chat"),
    ],
)
def test_what_the_lake_does_not_have_is_told_with_what_it_has(lake, take, error, said):
    with pytest.raises(error, match=said):
        plan(lake, recipe({"x": taking({**take, "amount": "5%"})}), dry_run=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"take": [{"kind": "qa", "amount": "60%"}]}, "stage.take.0.amount was 50%, is 60%"),
        ({"take": [{"kind": "qa", "amount": "50%", "tag": "chat"}]}, "stage.take.0.tag was "),
        ({"pack": {"tiles": 9}}, "stage.pack.tiles was None, is 9"),
        ({"pack": {"tokens": 900}}, "stage.pack.tokens was None, is 900; context.tokens was 6000, is 900"),
        ({"pack": {"alone": "video"}}, "stage.pack.alone was "),
        ({"states": "labels"}, "context.states was tokens, is labels"),
        ({"prompt": "sample"}, "context.prompt was context, is sample"),
        ({"positions": "reset"}, "context.positions was chat, is reset"),
        ({"sample_tiles": 13}, "context.sample_tiles was None, is 13"),
        ({"audio": "glm4voice"}, "context.audio was vita, is glm4voice"),
    ],
)
def test_every_new_field_is_told_when_it_differs(lake, change, said):
    stage, ours = taking({"amount": "50%"}), ("take", "pack")
    plan(lake, recipe({"drift": stage}), only=["drift"], replace=True)
    own = {name: value for name, value in change.items() if name in ours}
    other = {name: value for name, value in change.items() if name not in ours}
    with pytest.raises(Drift, match=f"another plan: {said}"):
        plan(lake, recipe({"drift": {**stage, **own}}, **other))


# --- settings -------------------------------------------------------------------------------------------------------


def lengths(lake, stage, **context):
    """A stage planned anew, some of its contexts rendered and its every byte audited."""
    page = recipe({"set": stage}, **context)
    (manifest,) = plan(lake, page, replace=True)
    for row in rows(lake, manifest, "contexts")[:3]:
        assert row["tokens"] == rendered_tokens(lake, manifest, row["context"])
        assert row["tokens"] <= manifest.context.tokens
    assert not found(lake, manifest, page=page, deep=True)
    return manifest


@pytest.mark.parametrize("prompt", ["sample", "none"])
def test_each_sample_carries_its_own_prompt_or_none_is_carried(lake, prompt):
    manifest = lengths(lake, taking({"amount": "100%"}), prompt=prompt, tokens=2500, tiles=4)
    assert {row["prompt"] for row in rows(lake, manifest, "contexts")} == {prompt}
    assert manifest.capacity == 2500
    bare = lengths(lake, taking({"amount": "100%"}), prompt="none", tokens=2500, tiles=4)
    carried = 92 * 90 + 141 * 20 if prompt == "sample" else 0
    assert total(manifest, "selected_tokens") == total(bare, "selected_tokens") + carried


def test_states_cost_what_they_are(lake):
    cost = {states: total(lengths(lake, taking({"amount": "100%"}), states=states), "selected_tokens")
            for states in ("tokens", "numbers", "labels", "none")}  # fmt: skip
    answers = 60 + 60 + 20
    assert cost["tokens"] == cost["none"] + answers
    assert cost["numbers"] == cost["none"] + 3 * answers
    assert cost["labels"] == cost["none"]


def test_no_context_has_more_tiles_than_its_cap(lake):
    free = lengths(lake, taking({"amount": "100%"}), tiles=6)
    capped = lengths(lake, taking({"amount": "100%"}, pack={"tiles": 8}), tiles=6)
    most = {name: max(row["tiles"] for row in rows(lake, one, "contexts")) for name, one in
            (("free", free), ("capped", capped))}  # fmt: skip
    assert most["free"] > 8 >= most["capped"]
    assert capped.contexts > free.contexts
    assert capped.binding == "units"
    assert "set: the cap of 8 tiles a context sets the number of contexts" in planned([capped])


def test_a_cap_of_tiles_that_costs_contexts_is_told(lake):
    (manifest,) = plan(lake, recipe({"x": {"take": {"qa": "100%"}, "pack": {"tiles": 3}}}, tokens=3000), replace=True)
    large = manifest.model_copy(update={"contexts": 2011, "bound": 2000, "binding": "tokens"})
    said = "x: with a cap of 3 tiles a context there are 0.6% more contexts than the tokens need"
    assert said in planned([large]).splitlines()
    assert said not in planned([large.model_copy(update={"contexts": 2001})]).splitlines()


def test_a_sample_of_more_tiles_than_a_context_may_have_is_listed(lake):
    manifest = lengths(lake, taking({"amount": "100%"}, pack={"tiles": 4}), tiles=6)
    reasons = {row["reason"] for row in rows(lake, manifest, "unplaced")}
    assert reasons
    assert all(reason.startswith("over-tiled: ") and reason.endswith("room for 4") for reason in reasons)
    assert total(manifest, "placed") == total(manifest, "selected") - len(rows(lake, manifest, "unplaced"))


def test_images_of_one_sample_share_its_tiles(tmp_path):
    two, one = pictures(tmp_path, [(640, 480)] * 4), []
    for number in (0, 2):
        turns = [turn for record in two[number : number + 2] for turn in record["conversations"]]
        one.append(
            {"id": f"b{number}", "image": [two[number]["image"], two[number + 1]["image"]], "conversations": turns}
        )
    lake = fill(tmp_path, {"pairs": (LLAVA, one)})
    alone = lengths(lake, taking({"amount": "100%"}))
    assert (total(alone, "selected"), total(alone, "placed")) == (2, 0)
    assert "set: only 0 of 2 samples with images fit into a context of 6,000 tokens" in planned([alone])
    shared = lengths(lake, taking({"amount": "100%"}), sample_tiles=14)
    assert [row["tiles"] for row in rows(lake, shared)] == [14, 14]
    tight = lengths(lake, taking({"amount": "100%"}), sample_tiles=1)
    assert [row["tiles"] for row in rows(lake, tight)] == [2, 2]


def test_kinds_that_stay_alone_are_those_that_the_stage_names(tmp_path):
    films = {"format": "video"}
    lake = fill(tmp_path, {"films": (films, clips(tmp_path, [1.0, 1.0, 2.0])), "sums": questions(10)})
    usual = lengths(lake, taking({"amount": "100%"}))
    assert usual.contexts == 4
    shared = lengths(lake, taking({"amount": "100%"}, pack={"alone": []}))
    assert shared.contexts == 1
    assert [row["prompt"] for row in rows(lake, shared, "contexts")] == ["video"]
    assert lengths(lake, taking({"amount": "100%"}, pack={"alone": ["video", "text"]})).contexts == 13


def test_a_stage_may_have_its_own_budget(lake):
    page = recipe(
        {"wide": taking({"amount": "100%"}), "narrow": taking({"amount": "100%"}, pack={"tokens": 2048})}, tiles=4
    )
    wide, narrow = plan(lake, page, replace=True)
    assert (wide.context.tokens, narrow.context.tokens) == (6000, 2048)
    assert narrow.contexts > 2 * wide.contexts
    assert not found(lake, wide, narrow, page=page)


def test_another_sound_is_counted_by_its_codes(lake):
    (manifest,) = plan(lake, recipe({"x": {"take": {"asr": "100%"}}}, audio="glm4voice", prompt="none"), replace=True)
    assert sorted(row["audio_tokens"] for row in rows(lake, manifest)) == sorted(
        2 + -(-round(seconds(number) * 16_000) // 1280) for number in range(20)
    )
    assert not found(lake, manifest, deep=True)


def test_a_text_to_be_said_is_answered_by_text_and_sound_in_turn(tmp_path):
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs/a.wav", np.sin(np.arange(64_000) / 9) / 4, 16_000)
    (tmp_path / "metadata.csv").write_text(
        "a|The sea was calm and a boat lay near.|The sea was calm and a boat lay near.\n"
    )
    lake = fill(tmp_path, {"say": ({"format": "ljspeech", "kind": "tts", "files": "metadata.csv"}, None)})
    plain, cut = (
        plan(lake, recipe({"x": {"take": {"tts": "100%"}}}, audio="glm4voice", states="none", interleave=pairs),
             replace=True)[0]
        for pairs in ([], [1, 10, 4, 10])
    )  # fmt: skip
    (before,), (after,) = rows(lake, plain), rows(lake, cut)
    words = before["tokens"] - before["audio_tokens"] - 10  # ⏎ start user ⏎ … end, ⏎ start assistant ⏎ end
    assert before["audio_tokens"] == audio_tokens(64_000, "glm4voice") == 52
    runs = 1 + -(-(words - 1) // 4)
    assert after["audio_tokens"] == 50 + 2 * runs
    assert after["tokens"] == before["tokens"] + words + 2 * (runs - 1)
    assert not found(lake, plain, deep=True)
    assert not found(lake, cut, deep=True)


# --- vocabularies ---------------------------------------------------------------------------------------------------


def vocabulary(folder, controls=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """A tokenizer.json of bytes, a few merges and some control tokens."""
    tokenizers = pytest.importorskip("tokenizers", reason="tarsia[hub] is not installed")
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(controls), initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    words.train_from_iterator(["the sea was calm and a small red boat lay near"] * 9, trainer)
    words.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


@pytest.mark.parametrize("controls", [("<|im_start|>", "<|im_end|>"), ()])
def test_with_a_vocabulary_of_hugging_face_lengths_are_what_it_makes_them(tmp_path, monkeypatch, controls):
    pool, name = tone(tmp_path, monkeypatch), vocabulary(tmp_path, controls)
    lake = fill(tmp_path, {"sums": questions(12), "talk": (LLAVA, chats(6))})
    stage = taking({"amount": "100%"}, spoken="50%")
    voice(lake, recipe({"set": stage}, tokenizer=name), pool)
    page = recipe({"set": stage}, tokenizer=name)
    (manifest,) = plan(lake, page, voices="tone", replace=True)
    assert total(manifest, "spoken") == 12
    for row in rows(lake, manifest, "contexts"):
        assert row["tokens"] == rendered_tokens(lake, manifest, row["context"])
    assert not found(lake, manifest, page=page, deep=True)


def test_another_file_under_the_same_path_is_another_vocabulary(tmp_path):
    name, lake = vocabulary(tmp_path), fill(tmp_path, {"sums": questions(12)})
    page = recipe({"x": taking({"amount": "50%"})}, tokenizer=name)
    (before,) = plan(lake, page)
    vocabulary(tmp_path, ("<|im_end|>",))
    tokenizer.cache_clear()
    with pytest.raises(Drift, match=r"vocabulary was \w{64}, is \w{64}; prompts.image was"):
        plan(lake, page)
    said = [finding.what for finding in found(lake, before)]
    assert any(what.startswith(f"vocabulary: recorded {before.vocabulary}, found ") for what in said)


def test_a_recipe_finds_its_vocabulary_beside_itself(tmp_path):
    name = vocabulary(tmp_path)
    text = (
        "{model: m, seed: 1, context: {tokens: 900, tokenizer: tokenizer.json}, stages: {x: {title: x, train: [llm], "
    )
    (tmp_path / "page.yaml").write_text(text + "take: {qa: 5%}}}}")
    assert read_recipe(str(tmp_path / "page.yaml")).context.tokenizer == name


# --- the mixture ----------------------------------------------------------------------------------------------------


def test_the_largest_deviation_of_a_corpus_is_stated_and_recounted(tmp_path):
    lake = fill(tmp_path, {"a": questions(400), "b": questions(200, words=60, first=2000)})
    (manifest,) = plan(lake, recipe({"x": taking({"amount": "100%"}, pack=False)}))
    contexts = {}
    for row in rows(lake, manifest):
        window = contexts.setdefault(row["context"] // 256, {"a": 0, "b": 0})
        window[row["corpus"]] += row["tokens"]
    whole = sum(one["b"] for one in contexts.values()) / sum(sum(one.values()) for one in contexts.values())
    full = [contexts[number] for number in range(manifest.contexts // 256)]
    far = [abs(one["b"] / sum(one.values()) - whole) for one in full]
    assert len(full) == 2
    assert manifest.deviation.distance == pytest.approx(max(far), abs=1e-8)
    assert manifest.deviation.window == far.index(max(far))
    assert f"{max(far):.2%}" in planned([manifest])
    assert not found(lake, manifest)
    other = manifest.deviation.model_copy(update={"window": 1 - manifest.deviation.window})
    assert any("window" in one.where for one in found(lake, manifest.model_copy(update={"deviation": other})))
    assert found(lake, manifest.model_copy(update={"deviation": None}))


def test_a_stage_of_fewer_contexts_than_a_window_states_none(lake):
    (manifest,) = plan(lake, recipe({"x": taking({"amount": "100%"})}), dry_run=True)
    assert manifest.deviation is None


# --- recipes that come with Tarsia ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vita-1.5", "vita-1.5-small", "vita-1.0", "vita-audio"])
def test_a_shipped_recipe_means_the_same_when_it_is_stored(name):
    page = read_recipe(name)
    assert page.model == name
    assert page.modules
    assert Recipe.model_validate(page.model_dump(mode="json")) == page


@pytest.mark.parametrize("name", ["vita-1.5", "vita-1.5-small", "vita-1.0", "vita-audio"])
def test_every_setting_and_amount_of_a_shipped_recipe_says_where_it_is_from_on_its_line(name):
    lines = (Path(__file__).parents[1] / f"manifests/recipes/{name}.yaml").read_text().splitlines()
    settings = ["tokens", "tokenizer", "tiles", "sample_tiles", "frames", "audio", "states", "prompt", "positions"]
    settings += ["interleave", "pack", "spoken", "guide", "seed", r"take: \{", r"- \{"]
    settled = re.compile(f" *({'|'.join(settings)})")
    mine = [line for line in lines if settled.match(line)]
    assert len(mine) > 15
    assert [line for line in mine if "# " not in line] == []


def test_the_order_of_kinds_on_the_page_makes_no_difference():
    one, other = (recipe({"x": {"take": take}}) for take in ({"qa": "5%", "asr": "9%"}, {"asr": "9%", "qa": "5%"}))
    assert one.digest == other.digest
    assert one.stages["x"].takes == other.stages["x"].takes


def test_vita_audio_repeats_spoken_questions_and_caps_sums(tmp_path):
    recordings(tmp_path, [1.0, 2.0, 1.5])
    (tmp_path / "more").mkdir()
    recordings(tmp_path / "more", [1.0] * 4)
    lake = fill(tmp_path, {
        "heard": ({**SPEECH, "kind": "asr"}, None),
        "asked": ({**SPEECH, "kind": "qa"}, None),
        "emilia": ({**SPEECH, "kind": "tts", "tags": ["emilia"], "root": "more"}, None),
        "sums": ({"tags": ["goat"]}, questions(40)),
        "other": ({"tags": ["atlas_math"]}, questions(40, first=100)),
    })  # fmt: skip
    page = read_recipe("vita-audio")
    manifests = plan(lake, page)
    assert [one.context.tokens for one in manifests] == [8192, 8192, 8192, 2048]
    assert asked(manifests[0], "samples") == [("heard", 3), ("emilia", 2), ("other", 40), ("sums", 40)]
    assert asked(manifests[3], "samples") == [("heard", 0), ("emilia", 0), ("asked", 6), ("other", 2), ("sums", 2)]
    assert not found(lake, *manifests, page=page, deep=True)


def test_vita_one_takes_noise_and_asks_in_three_prompts(lake):
    page = read_recipe("vita-1.0")
    stage = page.stages["3"].model_copy(update={"spoken": None})
    (manifest,) = plan(lake, page.model_copy(update={"stages": {"3": stage}}))
    assert total(manifest, "placed", kind="noise") == 6
    assert {row["prompt"] for row in rows(lake, manifest, "contexts")} == {"text", "image"}
    assert not found(lake, manifest)


@pytest.mark.parametrize("model", [Recipe, Context, Take, Pack])
def test_every_key_is_in_the_page_about_recipes(model):
    page = (Path(__file__).parents[1] / "docs/recipes.md").read_text()
    assert [name for name in model.model_fields if not re.search(rf"`{name}`|\b{name}:", page)] == []
