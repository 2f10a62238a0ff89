"""Noise and pairs of text and speech whose sound voices make: exact hours, always said, refused ones listed."""

import numpy as np
import pytest
import soundfile
from lakes import files, fill, plan, recipe, rendered_tokens, rows, say, spell, tone, voice

from tarsia.builders.audio import decode_at
from tarsia.builders.codes import Coded, Codes, put_codes, sounds_of
from tarsia.builders.documents import read_catalog, read_voices
from tarsia.builders.reading.sentences import clauses, statements
from tarsia.builders.tokens import NOISE
from tarsia.manifests.audit import audit
from tarsia.manifests.collate import CHATS, Decoder
from tarsia.manifests.stream import Stream
from tarsia.manifests.tensors import chat
from tarsia.manifests.utterances import Pairs, Transcripts, Waves
from tarsia.pipelines import show
from tarsia.pipelines.estimate import estimate
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.prune import prune
from tarsia.pipelines.speak import speak
from tarsia.schemas.errors import BadCatalog, Pending, UnknownName
from tarsia.schemas.sample import AUDIO
from tests.test_takedown import take

SECONDS = [0.9, 1.7, 1.2]
TEXTS = [
    {"id": f"t{n}", "text": f"Boat {n} went out, and the Sea was calm. {say(n, 7).capitalize()}."} for n in range(30)
]
ANSWERS = [
    {"id": f"a{n}", "instruction": f"What of harbour {n}?",
     "output": f"The harbour {n} lies in the north of the town. Its walls are of grey stone. You may go there."}
    for n in range(12)
]  # fmt: skip
STAGES = {
    "made": {"take": {"tts": "0.004h"}, "pack": False},
    "mixed": {"take": {"qa": "50%", "noise": "8 samples"}, "spoken": "50%"},
}


@pytest.fixture
def town(tmp_path, monkeypatch):
    (tmp_path / "LJ/wavs").mkdir(parents=True)
    for number, seconds in enumerate(SECONDS):
        wave = (9000 * np.sin(np.arange(round(seconds * 22_050)) / (8 + number))).astype(np.int16)
        soundfile.write(tmp_path / f"LJ/wavs/L{number}.wav", wave, 22_050)
    (tmp_path / "LJ/metadata.csv").write_text("".join(f"L{n}|raw|It was calm on day {n}.\n" for n in range(3)))
    tone(tmp_path, monkeypatch)
    return tmp_path


def lake_of(town, name="lake", **others):
    corpora = {
        "ready": ({"format": "ljspeech", "kind": "tts", "root": "LJ"}, None),
        "texts": ({"format": "sentences", "kind": "tts"}, others.get("texts", TEXTS)),
        "chats": others.get("chats", ANSWERS),
        "noise": ({"format": "answers", "kind": "noise", "root": "", "of": ["chats"]}, None),
    }
    return fill(town, corpora, lake=name)


def spoken_rows(lake, manifest, kind):
    return [row for row in rows(lake, manifest) if row["kind"] == kind]


def report(town, lake, page, only=()):
    with open_pool(1) as workers:
        return speak(page, lake, read_voices(str(town / "tone.yaml")), workers, only=only, quiet=True)


def test_the_story_of_what_voices_make(town):
    lake, page = lake_of(town), recipe(STAGES)
    speech = report(town, lake, page)
    made = {(one.stage, one.corpus): one for one in speech.questions}
    texts = made["made", "texts"]
    asked = 0.004 * 3600 - sum(SECONDS)
    assert texts.asked_seconds == pytest.approx(asked)
    assert texts.seconds >= asked
    assert (texts.missing, texts.languages["en"].seconds) == (0, texts.seconds)
    noise = made["mixed", "noise"]
    assert (noise.asked, noise.spoken + sum(noise.refused.values())) == (8, 8)
    assert "hours made" in show.spoken(speech)

    manifests = plan(lake, page, voices="tone")
    pairs, mixed = manifests
    found = audit(lake, manifests, recipe=page, deep=True)
    assert found.findings == ()
    mine = [row for row in spoken_rows(lake, pairs, "tts") if row["corpus"] == "texts"]
    lengths = [row["seconds"] for row in mine]
    assert pairs.pool == "tone"
    assert sum(lengths) == pytest.approx(texts.seconds)
    assert len([row for row in rows(lake, pairs) if row["corpus"] == "ready"]) == 3
    assert all(row["spoken"] == [0] for row in mine)
    refused = [row["reason"] for row in rows(lake, pairs, "unplaced")]
    assert refused == ["unspoken: refused"] * sum(texts.refused.values())
    lasts = {row["key"]: row["seconds"] for row in mine}
    assert sum(lasts.values()) - min(lasts.values()) < asked + max(lasts.values())

    noises = spoken_rows(lake, mixed, "noise")
    assert len(noises) + len(rows(lake, mixed, "unplaced")) == 8
    assert all(row["spoken"] == [0] and row["audio_tokens"] > 0 for row in noises)
    stream = Stream(lake.url, "small/mixed")
    context = stream.context(noises[0]["context"])
    assert len(context.samples) == 1
    text = spell(chat(context, mixed.context).ids)
    assert text.endswith(f"assistant\n{NOISE}Its walls are of grey stone. You may go there.<|im_end|>") or NOISE in text
    assert "harbour" not in text.split("user")[1].split("assistant")[0]
    with open_pool(1) as workers:
        pack(lake, ["small/made", "small/mixed"], workers, quiet=True)
    assert audit(lake, manifests, recipe=page, deep=True).findings == ()


def test_hours_are_reached_by_the_fewest_samples_in_whatever_steps(town):
    page = recipe(STAGES)
    small = recipe({"made": {"take": {"tts": "0.002h"}, "pack": False}})
    lake, other = lake_of(town), lake_of(town, "other")
    voice(lake, page, str(town / "tone.yaml"))
    voice(other, small, str(town / "tone.yaml"))
    voice(other, page, str(town / "tone.yaml"))
    assert lake.snapshot().speech == other.snapshot().speech
    (manifest,) = plan(lake, page, voices="tone", only=["made"])
    heard = {row["key"] for row in rows(lake, manifest) if row["corpus"] == "texts"}
    state = lake.snapshot().sidecars("tone", "texts")
    assert state is not None
    assert sum(shard.questions for shard in state.shards) == len(heard)
    mine = next(ask for ask in manifest.asks if ask.corpus == "texts")
    (longest,) = plan(lake, recipe({"made": {"take": {"tts": "0.0035h"}, "pack": False}}), voices="tone", replace=True)
    assert {row["key"] for row in rows(lake, longest) if row["corpus"] == "texts"} < heard
    assert mine.spoken is not None


def test_what_nobody_has_said_yet_is_pending_and_never_silent(town):
    lake, page = lake_of(town), recipe(STAGES)
    with pytest.raises(Pending, match="have no verdict yet; run tarsia speak"):
        plan(lake, page, voices="tone", only=["mixed"])
    (manifest,) = plan(lake, page, voices="tone", only=["mixed"], pending_as_text=True)
    assert [row["reason"] for row in rows(lake, manifest, "unplaced")] == ["unspoken: pending"] * 8
    assert audit(lake, [manifest], recipe=page, deep=True).findings == ()


def test_what_was_taken_down_is_neither_said_nor_heard(town):
    lake, page = lake_of(town), recipe({**STAGES, "all": {"take": {"noise": "100%", "tts": "100%"}}})
    voice(lake, page, str(town / "tone.yaml"))
    plan(lake, page, voices="tone")
    take(lake, ("texts", "t3#0"), ("texts", "t4#1"))
    report(town, lake, page)
    manifests = plan(lake, page, voices="tone", replace=True)
    assert [row["reason"] for row in rows(lake, manifests[2], "unplaced")].count("taken-down") == 2
    assert audit(lake, manifests, recipe=page, deep=True).findings == ()


def test_noise_goes_with_the_answers_that_it_was_made_of(town):
    chats = [dict(one) for one in ANSWERS]
    chats[5]["output"] = "The secret pier lies in the south of the town. Its walls are of grey stone."
    lake, page = lake_of(town, chats=chats), recipe({"all": {"take": {"noise": "100%", "qa": "100%"}}})
    voice(lake, page, str(town / "tone.yaml"))
    plan(lake, page, voices="tone")
    assert any(b"secret pier" in data for path, data in files(town / "lake").items() if path.startswith("verdicts"))
    receipt = take(lake, ("chats", "a5")).receipt
    assert [(one.corpus, one.samples) for one in receipt.records] == [("chats", 1), ("noise", 1)]
    assert receipt.clips == 1
    assert take(lake, ("chats", "a5")).receipt is None
    before = lake.snapshot()
    assert lake_of(town, chats=chats).snapshot().digest == before.digest
    report(town, lake, page)
    manifests = plan(lake, page, voices="tone", replace=True)
    assert [row["reason"] for row in rows(lake, manifests[0], "unplaced")].count("taken-down") == 2
    assert audit(lake, manifests, recipe=page, deep=True).findings == ()
    prune(lake, hours=0)
    assert not [path for path, data in files(town / "lake").items() if b"secret pier" in data]


def test_answers_without_a_statement_leave_the_quarantine_of_noise_with_their_sample(town):
    chats = [*ANSWERS, {"id": "short", "instruction": "Who?", "output": "Mathilda."}]
    lake = lake_of(town, chats=chats)
    assert lake.snapshot().corpus("noise").quarantined == {"no-statement": 1}
    receipt = take(lake, ("chats", "short")).receipt
    assert [(one.corpus, one.samples, one.quarantined) for one in receipt.records] == [("chats", 1, 0), ("noise", 0, 1)]
    assert lake.snapshot().corpus("noise").quarantine is None


def test_pairs_that_were_made_give_the_words_that_were_said_and_waves_at_24_khz(town):
    lake, page = lake_of(town), recipe(STAGES)
    voice(lake, page, str(town / "tone.yaml"))
    plan(lake, page, voices="tone", only=["made"])
    stream = Stream(lake.url, "small/made", batch=400)
    (batch,) = list(Decoder(stream.manifest.context, Pairs())(stream))
    texts = [spell(row[:size]) for row, size in zip(batch["x"], batch["x_lens"], strict=True)]
    assert any(text.startswith("boat ") and text.endswith(" went out") for text in texts)
    assert sum(text.startswith("it was calm on day") for text in texts) == 3
    assert not any(char.isdigit() for text in texts if text.startswith("boat") for char in text)
    made = next(part for context in map(stream.context, range(stream.manifest.contexts)) for part in context.samples
                if part.heard)  # fmt: skip
    assert made.sample.conversations[1].text == AUDIO
    assert made.asked == frozenset()
    (waves,) = list(Decoder(stream.manifest.context, Waves())(stream))
    assert len(decode_at(made.heard[0], 24_000)) in waves["waves_lens"].tolist()


@pytest.mark.parametrize("name", ["made", "mixed"])
def test_what_voices_made_reads_alike_from_packs_and_needs_no_tokenizer_there(town, monkeypatch, name):
    lake, page = lake_of(town), recipe(STAGES)
    voice(lake, page, str(town / "tone.yaml"))
    plan(lake, page, voices="tone", only=[name])
    with open_pool(1) as workers:
        pack(lake, [f"small/{name}"], workers, quiet=True)
    shards, packs = (Stream(lake.url, f"small/{name}", batch=400, packed=packed) for packed in (False, True))
    forms = [CHATS, *([Transcripts(), Pairs()] if name == "made" else [])]
    theirs = [one.arrays for form in forms for one in Decoder(shards.manifest.context, form)(shards)]
    contexts = [[one.context(number) for number in range(one.manifest.contexts)] for one in (shards, packs)]
    assert contexts[0] == contexts[1]
    assert any(part.words for context in contexts[1] for part in context.samples)
    for module in ("tensors", "utterances"):
        monkeypatch.delattr(f"tarsia.manifests.{module}.words_of")
    mine = [one.arrays for form in forms for one in Decoder(packs.manifest.context, form)(packs)]
    np.testing.assert_equal(mine, theirs)


def test_codes_of_made_speech_belong_to_its_clip(town):
    lake, page = lake_of(town), recipe(STAGES)
    voice(lake, page, str(town / "tone.yaml"))
    sounds = sounds_of(lake, "texts")
    made = {key: next(iter(clips.items())) for key, clips in sounds.items() if clips}
    rows_ = [Coded(key, [1] * -(-size // 600), [], size, clip) for key, (clip, size) in made.items()]
    put_codes(lake, "ticodec", "texts", rows_)
    codes = Codes(lake.url, "ticodec")
    assert all(len(codes(key, 0)) == -(-size // 600) for key, (_, size) in made.items())
    assert len(made) > 5


def test_hours_that_were_made_are_no_lack(town):
    lake, page = lake_of(town), recipe(STAGES)
    voice(lake, page, str(town / "tone.yaml"))
    manifests = plan(lake, page, voices="tone", only=["made"])
    assert "the lake has" not in show.planned(manifests)
    assert "h to be made of 0.004h" in show.asked(manifests)


def test_lengths_of_noise_are_those_of_the_tars(town):
    lake, page = lake_of(town), recipe({"n": {"take": {"noise": "100%"}}}, states="labels")
    voice(lake, page, str(town / "tone.yaml"))
    (manifest,) = plan(lake, page, voices="tone")
    for row in rows(lake, manifest)[:3]:
        assert rendered_tokens(lake, manifest, row["context"]) == row["tokens"] + manifest.prompts["text"]


def test_a_dry_run_counts_what_hours_would_probably_take(town):
    lake, page = lake_of(town), recipe(STAGES)
    with open_pool(1) as workers:
        sums = estimate(page, lake, read_voices(str(town / "tone.yaml")), workers, only=["made"], quiet=True)
    assert 1 <= sums.voices[0].texts <= 15
    assert "hours asked" in show.estimated(sums)


def test_noise_follows_the_answers_it_is_made_of(town):
    lake = lake_of(town)
    before = lake.snapshot().corpus("noise")
    assert before is not None
    assert (before.records, before.samples, before.corpus.root) == (12, 12, "")
    more = [*ANSWERS, {"id": "new", "instruction": "What?", "output": "The old bridge was closed in May. It is safe."}]
    more[0] = {**more[0], "output": "Short."}
    lake, fresh = lake_of(town, chats=more), lake_of(town, "fresh", chats=more)
    after, other = lake.snapshot().corpus("noise"), fresh.snapshot().corpus("noise")
    assert after is not None
    assert other is not None
    assert (after.records, after.samples, after.quarantined) == (13, 12, {"no-statement": 1})
    assert after.shards == other.shards
    number = lake.snapshot().number
    assert lake_of(town, chats=more).snapshot().corpora == lake.snapshot().corpora
    assert lake.snapshot().number >= number


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (
            "{format: answers, kind: noise, of: [chat]}",
            UnknownName,
            "no corpus with a root 'chat'; did you mean 'chats'",
        ),
        ("{format: answers, kind: noise, root: x}", BadCatalog, "format answers and 'of' belong together"),
        ("{format: answers, kind: noise}", BadCatalog, "root: Field required"),
        ("{format: answers, kind: noise, of: [chats], files: a}", BadCatalog, "no files and no media of its own"),
    ],
)
def test_what_is_made_of_nothing_is_said(town, entry, error, message):
    entry = entry.replace("kind:", "language: en, licence: CC0, kind:")
    (town / "page.yaml").write_text(
        f"corpora:\n  chats: {{format: alpaca, kind: qa, language: en, licence: CC0, root: .}}\n  noise: {entry}\n"
    )
    with pytest.raises(error, match=message):
        read_catalog(town / "page.yaml")


@pytest.mark.parametrize(
    ("output", "code"),
    [("Is it?", "unspeakable"), ("print(x) == 3 in `code` is so", "unspeakable")],
)
def test_what_no_voice_can_say_is_quarantined(town, output, code):
    lake = fill(town, {"n": ({"kind": "noise"}, [{"id": "1", "instruction": "`x`" + output, "output": "So."}])})
    state = lake.snapshot().corpus("n")
    assert state is not None
    assert state.quarantined == {code: 1}


def test_noise_of_several_turns_is_refused(town):
    turns = [{"from": name, "value": "It is nice today."} for name in ("human", "gpt", "human", "gpt")]
    lake = fill(town, {"n": ({"kind": "noise", "format": "llava"}, [{"id": "1", "conversations": turns}])})
    state = lake.snapshot().corpus("n")
    assert state is not None
    assert state.quarantined == {"unsaid-form": 1}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Yes, I do, thank you.", ["Yes, I do,", "thank you."]),
        ("It is 3.5 m high. It was.", ["It is 3.5 m high.", "It was."]),
        ("今天天气很好，我们去公园。好", ["今天天气很好，", "我们去公园。好"]),
        ("好，是", ["好，是"]),
        ("  ", []),
        ("However, it rained.", ["However, it rained."]),
    ],
)
def test_texts_are_cut_as_vita_cuts_them(text, pieces):
    assert clauses(text) == pieces


@pytest.mark.parametrize(
    ("text", "language", "said"),
    [
        ("The sea was calm at noon. It rained.", "en", ["The sea was calm at noon."]),
        ("Please look at the sea now. It is calm.", "en", []),
        ("Would the sea be calm at noon? It was.", "en", []),
        ("I saw the calm sea at noon. It was so.", "en", []),
        ("The sea was calm at noon.", "en", []),
        ("港口在城市的北边。城墙是灰色的。", "zh", ["港口在城市的北边。"]),
        ("请看看这张图里的港口。城墙是灰色的。", "zh", []),
        ("The value is `x` in this line. So it is.", "en", []),
    ],
)
def test_statements_are_meant_for_nobody(text, language, said):
    assert [one.said for one in statements(text, language)] == said
