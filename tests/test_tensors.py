"""Contexts as arrays: as long as planned, learning what VITA learns, media in their places; and batches of them."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes import chats, clips, fill, pictures, plan, questions, recipe, recordings, spell, tone, voice
from PIL import Image

from tarsia.builders.audio import decode_flac, encode_flac
from tarsia.builders.chat import PROMPTS, system_tokens, turn_tokens
from tarsia.builders.fbank import fbank
from tarsia.builders.pixels import BLANK, frame_square, image_tiles
from tarsia.builders.tokens import audio_tokens, frame_positions, tiles, tokenizer
from tarsia.manifests.collate import CHATS, Chats, Decoder
from tarsia.manifests.context import Record
from tarsia.manifests.order import Step
from tarsia.manifests.places import Group, Place
from tarsia.manifests.stream import Batch, Context, Stream, Streamed
from tarsia.manifests.tensors import IGNORED, NOISE, QUERY, chat
from tarsia.schemas.errors import Corrupt, UserError
from tarsia.schemas.recipe import Context as Settings
from tarsia.schemas.sample import AudioFacts, Frame, ImageFacts, Kind, Sample, Turn, VideoFacts

QWEN = tokenizer("qwen2.5")
PAD, START, END = (QWEN.controls[name] for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
HUMAN, GPT = ([198, START, *QWEN.encode(f"{name}\n")] for name in ("user", "assistant"))
SETTINGS = Settings(tokens=6000, tiles=1)
PLACE = Place(
    b"", Group("c", "qa", "en", "text"), 0, 0, 0, (), 0, 0, 0, 0, 0, 0, 0, 0
)  # arrays depend on nothing in it


# --- contexts made by hand ------------------------------------------------------------------------------------------


def jpeg(width=32, height=24, colour="teal"):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG")
    return file.getvalue()


def tone_of(samples, rate=16_000):
    return encode_flac((5000 * np.sin(np.arange(samples) / 9)).astype(np.int16), rate)


def part(*turns, key="a", kind=Kind.QA, images=(), audios=(), videos=(), heard=None):
    """A sample as the stream gives it. Images by size, audios by (samples, rate), videos by (frames, fps)."""
    said = [Turn(speaker="gpt" if at % 2 else "human", text=text) for at, text in enumerate(turns)]
    media, pictures_of, sounds, films = {}, [], [], []
    for number, size in enumerate(images):
        media[f"{number}.jpg"] = jpeg(*size)
        pictures_of.append(ImageFacts(member=f"{number}.jpg", width=size[0], height=size[1], digest=""))
    for number, (samples, rate) in enumerate(audios):
        media[f"{number}.flac"] = tone_of(samples, rate)
        sounds.append(AudioFacts(member=f"{number}.flac", samples=samples, rate=rate, source_rate=rate, digest=""))
    for number, (length, fps) in enumerate(videos):
        frames = []
        for at in {at for rate in (1, 3) for at in frame_positions(length, fps, rate=rate, least=4, most=16)}:
            media[f"{number}.f{at:06d}.jpg"] = jpeg(colour=(at * 7 % 256, 0, 0))
            frames.append(Frame(member=f"{number}.f{at:06d}.jpg", position=at, seconds=at / fps, digest=""))
        films.append(VideoFacts(frames=tuple(frames), length=length, fps=fps, width=32, height=24))
    sample = Sample(
        key=key, corpus="c", id=key, kind=kind, language="en", conversations=tuple(said), images=tuple(pictures_of),
        audios=tuple(sounds), videos=tuple(films),
    )  # fmt: skip
    return Streamed(Record(lambda _: sample, {}), PLACE, 0, media, heard or {}, {})


def counted(one, rule=SETTINGS):
    """The tokens of a sample by the planner's functions."""
    question, total = -1, 0
    for turn in one.sample.conversations:
        question += turn.speaker == "human"
        state = "☜" if turn.speaker == "gpt" else ""
        total += turn_tokens(QWEN, turn, spoken=turn.speaker == "human" and question in one.asked, state=state)
    total += sum(256 * tiles(image.width, image.height, most=rule.tiles, thumbnail=True) for image in one.sample.images)
    for film in one.sample.videos:
        total += 256 * len(frame_positions(film.length, film.fps, rate=1, least=4, most=16))
    total += sum(audio_tokens(-(-sound.samples * 16_000 // sound.rate), "vita") for sound in one.sample.audios)
    infos = [soundfile.info(io.BytesIO(flac)) for flac in one.heard.values()]
    return total + sum(audio_tokens(-(-info.frames * 16_000 // info.samplerate), "vita") for info in infos)


def context(*parts, rule=SETTINGS):
    media = "+".join(one.sample.modality for one in parts)
    prompt = next((name for name in ("video", "image") if name in media), "text")
    tokens = system_tokens(QWEN, prompt) + sum(counted(one, rule) for one in parts)
    return Context(0, prompt, tokens, parts)


def loose(*parts, **rule):
    """A context under other settings, its length found by asking."""
    rule = SETTINGS.model_copy(update=rule)
    one = context(*parts)
    for _ in range(2):
        try:
            return chat(one, rule)
        except Corrupt as error:
            one = replace(one, tokens=int(str(error).split(" has ")[1].split()[0]))
    raise AssertionError


# --- ids and labels -------------------------------------------------------------------------------------------------


def test_a_question_and_its_answer_to_the_token():
    arrays = chat(context(part("Who is it?", "A cat.")), SETTINGS)
    prompt = [START, *QWEN.encode("system\n" + PROMPTS["text"]), END]
    assert arrays.ids.tolist() == [
        *prompt, *HUMAN, *QWEN.encode("Who is it?"), END, *GPT, 145789, *QWEN.encode("A cat."), END,
    ]  # fmt: skip
    silent = len(prompt) + len(HUMAN) + 4 + 1 + len(GPT)
    assert arrays.labels.tolist() == [IGNORED] * silent + [145789, *QWEN.encode("A cat."), END]
    assert arrays.positions.tolist() == list(range(len(arrays.ids)))
    assert arrays.cu_seqlens.tolist() == [0, len(arrays.ids)]
    assert arrays.bounds.tolist() == [len(prompt), len(arrays.ids)]
    assert {arrays.ids.dtype, arrays.labels.dtype, arrays.positions.dtype} == {np.dtype(np.int64)}
    assert arrays.cu_seqlens.dtype == np.int32
    assert (arrays.states == IGNORED).all()


def learnt(arrays):
    """What is supervised, run by run."""
    runs, taught = [], arrays.labels != IGNORED
    for at in np.flatnonzero(taught):
        if at == 0 or not taught[at - 1]:
            runs.append([])
        assert arrays.labels[at] == arrays.ids[at]
        runs[-1].append(int(arrays.ids[at]))
    return [spell(run) for run in runs]


def test_every_answer_is_learnt_with_its_state_and_its_end():
    spoken = part("Who?\n<image>", "A\n\ncat.", "Where?", "There.", images=[(40, 30)], heard={1: tone_of(16_000)})
    noise = part("<audio>", "Nice weather.", key="b", kind=Kind.NOISE, audios=[(24_000, 16_000)])
    asked = part("<audio>", "Yes.", key="c", audios=[(24_000, 24_000)])
    clinging = part("是什么？", "性别。", key="d")
    arrays = chat(context(spoken, noise, asked, clinging), SETTINGS)
    assert learnt(arrays) == [
        "☜A\ncat.<|im_end|>",
        "☞There.<|im_end|>",
        "☟Nice weather.<|im_end|>",
        "☞Yes.<|im_end|>",
        "☜性别。<|im_end|>",
    ]


def test_media_fill_the_places_that_their_placeholders_have():
    film, clip = (60, 10.0), tone_of(22_050, 22_050)
    mixed = part(
        "<image>\nFirst?", "One.", "<video>\n<image>\n<audio>", "Two.", "Said?", "Three.",
        images=[(40, 30), (900, 450)], audios=[(40_000, 16_000)], videos=[film], heard={2: clip},
    )  # fmt: skip
    rule = Settings(tokens=6000, tiles=4)
    arrays = chat(context(mixed, rule=rule), rule)
    runs = [arrays.ids[begin:end] for _, _, begin, end in arrays.spans.tolist()]
    assert all((run == PAD).all() for run in runs)
    assert (arrays.ids == PAD).sum() == sum(map(len, runs))
    assert [(kind, number, end - begin) for kind, number, begin, end in arrays.spans.tolist()] == [
        (0, 0, 256),
        (1, 1, 6 * 256),
        (0, 7, 2 * 256 + 256),  # two tiles and the thumbnail
        (2, 0, audio_tokens(40_000, "vita")),
        (2, 1, audio_tokens(16_000, "vita")),
    ]
    first = arrays.spans[0, 2]
    assert spell(arrays.ids[first - 3 : first]) == "<|im_start|>user\n"
    assert [len(squares) for squares in arrays.squares] == [1, 6, 3]
    assert np.array_equal(arrays.squares[0], image_tiles(jpeg(40, 30), (40, 30), most=4, thumbnail=True))
    assert np.array_equal(arrays.squares[1][2], frame_square(mixed.media["0.f000020.jpg"]))
    assert np.array_equal(arrays.features[0], fbank(decode_flac(tone_of(40_000))))
    assert [len(features) for features in arrays.features] == [248, 98]
    assert not arrays.broken


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
odd = st.sampled_from(["\n\nWhy?\n", "性", " ", "力能", "<|im_end|>", "a\n\n\nb", "☜☞", "  x ", "\r\n.", "1234567"])
words = st.one_of(texts, odd).filter(lambda text: "<image>" not in text and "<video>" not in text)


@st.composite
def samples(draw, key):
    """Conversations of up to three exchanges with what media may be in them."""
    turns, images, audios, videos, heard = [], [], [], [], {}
    for question in range(draw(st.integers(1, 3))):
        asked, medium = draw(words), draw(st.sampled_from(["", "", "<image>", "<audio>", "<video>", "heard"]))
        if medium == "<image>":
            images.append(draw(st.sampled_from([(8, 8), (40, 30), (30, 90)])))
            asked = draw(st.sampled_from([f"<image>\n{asked}", f"{asked}\n<image>", f"{asked} <image> {asked}"]))
        elif medium == "<audio>":
            audios.append((draw(st.integers(8_000, 20_000)), draw(st.sampled_from([16_000, 24_000]))))
            asked = draw(st.sampled_from([f"<audio>\n{asked}", "<audio>"]))
        elif medium == "<video>" and not videos:
            videos.append(draw(st.sampled_from([(5, 10.0), (47, 25.0)])))
            asked = f"<video>\n{asked}"
        elif medium == "heard":
            heard[question] = tone_of(draw(st.integers(8_000, 20_000)))
        turns += [asked, draw(words)]
    kind = draw(st.sampled_from([Kind.QA, Kind.NOISE]))
    return part(*turns, key=key, kind=kind, images=images, audios=audios, videos=videos, heard=heard)


@settings(max_examples=60)
@given(st.data())
def test_any_conversation_is_as_long_as_planned_and_learns_its_answers(data):
    parts = [data.draw(samples(key)) for key in "ab"[: data.draw(st.integers(1, 2))]]
    one = context(*parts)
    arrays = chat(one, SETTINGS)
    assert len(arrays.ids) == len(arrays.labels) == len(arrays.positions) == one.tokens
    assert arrays.bounds[-1] == one.tokens
    answers = [turn for each in parts for turn in each.sample.conversations if turn.speaker == "gpt"]
    runs = learnt(arrays)
    assert len(runs) == len(answers)
    assert all(run[0] in "☞☟☜" and run.endswith("<|im_end|>") for run in runs)
    media = [turn for each in parts for turn in each.sample.images + each.sample.videos]
    assert len(arrays.squares) == len(media)
    assert (arrays.ids == PAD).sum() == (arrays.spans[:, 3] - arrays.spans[:, 2]).sum()
    assert sum(map(len, arrays.squares)) * 256 == sum(
        end - begin for kind, _, begin, end in arrays.spans.tolist() if kind != 2
    )


# --- styles ---------------------------------------------------------------------------------------------------------

HEARD = part("Who?", "A cat.", "And?", "A dog.", heard={0: tone_of(16_000)})
NOISY = part("<audio>", "Nice weather.", key="b", kind=Kind.NOISE, audios=[(16_000, 16_000)])


def test_states_are_characters_or_classes_of_heard_questions_or_nothing():
    tokens, labels, none = (loose(HEARD, NOISY, states=one) for one in ("tokens", "labels", "none"))
    assert [run[0] for run in learnt(tokens)] == ["☞", "☜", "☟"]
    assert learnt(labels) == learnt(none) == ["A cat.<|im_end|>", "A dog.<|im_end|>", "Nice weather.<|im_end|>"]
    assert (none.states == IGNORED).all()
    assert [run[:3] for run in learnt(loose(HEARD, NOISY, states="numbers"))] == ["<1>", "<3>", "<2>"]
    at = np.flatnonzero(labels.states != IGNORED)
    assert labels.states[at].tolist() == [QUERY, NOISE]
    assert at.tolist() == [end - 1 for kind, _, _, end in labels.spans.tolist() if kind == 2]
    assert len(tokens.ids) == len(labels.ids) + 3


def test_a_sample_tells_how_each_of_its_questions_is_met():
    assert part("<audio>", "Yes.", "And now?", "No.", audios=[(3200, 16_000)]).states == ("spoken", "written")
    assert part("Who?", "I.", "Where?", "Here.", heard={1: tone_of(3200)}).states == ("written", "spoken")
    assert part("So he said", "Nothing.", kind=Kind.NOISE, heard={0: tone_of(3200)}).states == ("noise",)
    assert part("Say it.", "It.", kind=Kind.TTS, heard={0: tone_of(3200)}).states == ("written",)


def test_a_prompt_stands_before_the_context_or_each_sample_or_not_at_all():
    seen = part("<image>\nWho?", "A cat.", key="c", images=[(8, 8)])
    written = part("Who?", "A dog.")
    whole, each, none = (loose(seen, written, prompt=one) for one in ("context", "sample", "none"))
    assert len(whole.ids) - len(none.ids) == system_tokens(QWEN, "image")
    assert len(each.ids) - len(none.ids) == system_tokens(QWEN, "image") + system_tokens(QWEN, "text")
    assert [one.bounds[0] for one in (whole, each, none)] == [system_tokens(QWEN, "image"), 0, 0]
    second = each.ids[each.bounds[1] :]
    assert spell(second[: system_tokens(QWEN, "text")]).endswith(PROMPTS["text"] + "<|im_end|>")
    assert (whole.labels[: whole.bounds[0]] == IGNORED).all()


def test_positions_go_on_or_begin_anew_with_every_sample_the_prompt_with_the_first():
    chatty, anew = (loose(HEARD, NOISY, positions=one) for one in ("chat", "reset"))
    assert chatty.positions.tolist() == list(range(len(chatty.ids)))
    first, total = int(anew.bounds[1]), len(anew.ids)
    assert anew.positions.tolist() == [*range(first), *range(total - first)]
    assert anew.cu_seqlens.tolist() == [0, first, total]
    assert np.array_equal(chatty.ids, anew.ids)


def test_all_images_of_a_sample_share_its_tiles_where_the_recipe_says_so():
    pair = part("<image>\nWho?", "A cat.", "<image>\nAnd?", "A dog.", images=[(640, 480), (480, 640)])
    assert [len(squares) for squares in loose(pair, tiles=12).squares] == [13, 13]
    assert [len(squares) for squares in loose(pair, tiles=12, sample_tiles=14).squares] == [7, 7]


def test_sound_as_codes_is_refused():
    with pytest.raises(UserError, match="audio: glm4voice writes sound as codes, of which no arrays are made"):
        loose(HEARD, audio="glm4voice")


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_a_context_of_another_length_than_planned_is_corrupt():
    with pytest.raises(Corrupt, match="context 0 has 108 tokens, its manifest says 109: another version"):
        chat(replace(context(part("Who?", "A cat.")), tokens=109), SETTINGS)


def broken_context():
    whole, bad = (
        part("<image>\nWho?", "A cat.", images=[(8, 8)]),
        part("<image>\nWho?", "A dog.", images=[(8, 8)], key="b"),
    )
    return context(whole, bad._replace(media={"0.jpg": bad.media["0.jpg"][:-30]}))


def test_a_picture_that_cannot_be_decoded_is_grey_and_its_sample_teaches_nothing():
    arrays = chat(broken_context(), SETTINGS)
    assert learnt(arrays) == ["☜A cat.<|im_end|>"]
    assert [(fault.key, fault.member) for fault in arrays.broken] == [("b", "0.jpg")]
    assert "Truncated" in arrays.broken[0].reason
    assert (arrays.squares[1] == BLANK).all()
    assert (arrays.squares[0] != BLANK).any()


def test_speech_that_cannot_be_decoded_is_silence_and_a_clip_without_a_header_is_corrupt():
    flac = tone_of(16_000)
    heard = part("Who?", "A cat.", heard={0: flac})
    one = context(heard)
    arrays = chat(replace(one, samples=(heard._replace(heard={0: flac[:200]}),)), SETTINGS)
    assert [(fault.key, fault.member) for fault in arrays.broken] == [("a", "q0.flac")]
    assert (arrays.features[0] == 0).all()
    assert arrays.features[0].shape == (98, 80)
    with pytest.raises(Corrupt, match=r"sample a: q0\.flac is no FLAC"):
        chat(replace(one, samples=(heard._replace(heard={0: b"fLaC"}),)), SETTINGS)


def test_a_member_that_is_not_there_is_corrupt():
    one = part("<image>\nWho?", "A cat.", images=[(8, 8)])
    with pytest.raises(Corrupt, match=r"sample a has no member '0\.jpg'"):
        chat(context(one._replace(media={})), SETTINGS)


def test_broken_media_stop_the_decoder_when_they_are_more_than_allowed():
    batches = [Batch((broken_context(),), {"position": at}, Step(0, at, at + 1)) for at in range(3)]
    with pytest.raises(Corrupt, match=r"sample b: 0\.jpg cannot be decoded .* more than the 0 broken media"):
        list(Decoder(SETTINGS, CHATS)(batches))
    decoded = Decoder(SETTINGS, CHATS, broken=2)(batches)
    assert [next(decoded).broken[0].key for _ in range(2)] == ["b", "b"]
    with pytest.raises(Corrupt, match="more than the 2 broken media"):
        next(decoded)


# --- batches --------------------------------------------------------------------------------------------------------


def together(*contexts, length=None, **rule):
    form, rule = Chats(length), SETTINGS.model_copy(update=rule)
    return form.collate([form.arrays(one, rule) for one in contexts], rule)


SEEN = part(
    "<image>\nWho?", "A cat.", "<image>\n<audio>", "Two.", key="s", images=[(8, 8), (9, 9)], audios=[(9_000, 16_000)]
)


def test_a_batch_is_its_contexts_filled_up_to_the_longest():
    first, second = context(SEEN, HEARD), context(part("Who?", "A cat."))
    batch, alone = together(second, first), [chat(second, SETTINGS), chat(first, SETTINGS)]
    for row, one in enumerate(alone):
        size = len(one.ids)
        for name, filler in (("ids", PAD), ("labels", IGNORED), ("positions", 0), ("states", IGNORED)):
            assert np.array_equal(batch[name][row, :size], getattr(one, name))
            assert (batch[name][row, size:] == filler).all()
    longest = len(alone[1].ids)
    assert batch["lens"].tolist() == [len(alone[0].ids), longest]
    assert batch["cu_seqlens"].tolist() == [0, len(alone[0].ids), longest, 2 * longest]
    assert batch["samples"].tolist() == [
        [row, begin, end]
        for row, one in enumerate(alone)
        for begin, end in zip(one.bounds, one.bounds[1:], strict=False)
    ]


def test_encoded_media_land_on_their_fillers_and_nowhere_else():
    """What a model does: embed all ids, then write what the encoders give over the fillers."""
    batch = together(
        context(HEARD), context(SEEN), context(part("<image>\nWho?", "A cat.", images=[(8, 8)])), length=1400
    )
    flat = batch["ids"].reshape(-1).copy()
    places = (batch["squares_at"][:, None] + np.arange(256)).reshape(-1)
    assert (flat[places] == PAD).all()
    flat[places] = -1
    for at, tokens in zip(batch["features_at"], batch["features_tokens"], strict=True):
        assert (flat[at : at + tokens] == PAD).all()
        flat[at : at + tokens] = -2
    rows = flat.reshape(3, 1400)
    assert all((row[:size] != PAD).all() for row, size in zip(rows, batch["lens"], strict=True))
    assert [(row == -1).sum() for row in rows] == [0, 512, 256]
    assert batch["squares"].shape == (3, 448, 448, 3)
    assert batch["features"].shape == (2, 98, 80)
    assert batch["features_lens"].tolist() == [98, 54]
    for row, kind, number, begin, end in batch["spans"].tolist():
        value = -2 if kind == 2 else -1
        assert (rows[row, begin:end] == value).all()
        where = batch["features_at"] if kind == 2 else batch["squares_at"]
        assert where[number] == row * 1400 + begin


def test_the_arrays_are_those_that_the_documentation_lists():
    page = (Path(__file__).parents[1] / "docs/tensors.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| \(", page, re.MULTILINE)
    assert dict(listed) == {name: array.dtype.name for name, array in together(context(SEEN)).items()}


def test_segments_of_a_batch_are_its_samples_and_what_fills_it_up():
    anew = SETTINGS.model_copy(update={"positions": "reset"})
    one, two = context(HEARD, part("Who?", "A cat.")), context(part("Who?", "A cat."))
    batch = together(one, two, positions="reset", length=400)
    first = chat(one, anew).cu_seqlens.tolist()
    assert batch["cu_seqlens"].tolist() == [*first, 400, 400 + two.tokens, 800]
    assert batch["cu_seqlens"].dtype == np.int32
    full = together(two, positions="reset")
    assert full["cu_seqlens"].tolist() == [0, two.tokens]


def test_a_batch_may_be_empty_and_no_context_is_cut():
    empty = together()
    assert empty["ids"].shape == (0, 0)
    assert empty["squares"].shape == (0, 448, 448, 3)
    assert empty["cu_seqlens"].tolist() == [0]
    assert {name: array.dtype for name, array in empty.items()} == {
        name: array.dtype for name, array in together(context(SEEN)).items()
    }
    with pytest.raises(UserError, match="a context has 108 tokens, more than the batch's length of 64"):
        together(context(part("Who?", "A cat.")), length=64)


# --- a lake of everything -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Text, chats, pictures of many shapes, videos and recordings, half of the questions heard."""
    folder, monkeypatch = tmp_path_factory.mktemp("tensors"), pytest.MonkeyPatch()
    llava = {"format": "llava"}
    recordings(folder, [0.5, 1.7, 3.0])
    corpora = {
        "sums": questions(30),
        "talk": (llava, chats(12)),
        "looks": (llava, pictures(folder, [(300, 300), (640, 480), (100, 900), (1280, 720)])),
        "films": ({"format": "video", "kind": "caption"}, clips(folder, [1, 5.5])),
        "speech": ({"format": "librispeech", "kind": "asr", "root": "LibriSpeech"}, None),
    }
    stages = {
        "all": {"take": {"qa": "100%", "caption": "100%"}, "spoken": "50%"},
        "asr": {"take": {"asr": "100%"}, "pack": False},
    }
    page = recipe(stages, tokens=4300, tiles=12, frames={"fps": 3, "min": 4, "max": 16})
    filled = fill(folder, corpora)
    voice(filled, page, tone(folder, monkeypatch))
    plan(filled, page, voices="tone")
    yield filled
    monkeypatch.undo()


@pytest.mark.parametrize("stage", ["all", "asr"])
def test_every_context_of_a_lake_has_the_length_that_its_manifest_says(lake, stage):
    stream, media = Stream(lake.url, f"small/{stage}"), set()
    for batch in stream:
        arrays = chat(batch.contexts[0], stream.manifest.context)
        assert len(arrays.ids) == batch.contexts[0].tokens
        assert not arrays.broken
        assert (arrays.labels != IGNORED).any()
        media |= set(arrays.spans[:, 0].tolist())
    assert media == ({0, 1, 2} if stage == "all" else {2})


def same(first, second):
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_decode_the_same_batches_in_the_same_order(lake, threads):
    stream = Stream(lake.url, "small/all", batch=2)
    settings_of = stream.manifest.context
    plain, threaded = (list(Decoder(settings_of, CHATS, threads=number)(stream)) for number in (0, threads))
    assert len(plain) == len(threaded) == len(stream)
    for one, other in zip(plain, threaded, strict=True):
        assert (one.contexts, one.keys, one.state) == (other.contexts, other.keys, other.state)
        assert same(one.arrays, other.arrays)


def test_a_decoder_is_at_most_so_far_ahead(lake):
    stream = Stream(lake.url, "small/all")
    read = []

    def batches():
        for batch in stream:
            read.append(batch.contexts[0].number)
            yield batch

    decoded = Decoder(stream.manifest.context, CHATS, threads=2, ahead=2)(batches())
    assert next(decoded).contexts == (0,)
    assert read == [0, 1, 2]
    decoded.close()
    with pytest.raises(UserError, match="threads is at least 0, ahead at least 1"):
        Decoder(stream.manifest.context, CHATS, ahead=0)
