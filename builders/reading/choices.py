"""Questions of tests and quizzes: with options and without, with a solution and without.

The options stand below the question, a letter before each; a request in the corpus's language, drawn from the
templates, says what is wanted. An answer with a solution is the solution, and at its end the answer as a sentence; one
without is the answer alone, so that short answers are given only where they were asked for.
"""

from collections.abc import Sequence
from typing import Any

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import IMAGE, Turn

_SAID = {"en": "The answer is {}.", "zh": "答案是{}。"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def texts(given: Any, key: str) -> tuple[str, ...]:
    """A list of texts or numbers, as texts; nothing is an empty list."""
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(text, str | int | float) for text in given):
        raise Refused("record-shape", f"{key}: a list of texts was due")
    if len(given) > len(_LETTERS):
        raise Refused("record-shape", f"{key}: {len(given)} options, more than there are letters")
    return tuple(str(text).strip() for text in given)


def option(options: Sequence[str], answer: str) -> str:
    """The option that an answer names, by its letter or its text: `B. nine`, or `B` where there are only letters."""
    named = _LETTERS.find(answer) if len(answer) == 1 else -1
    number = options.index(answer) if answer in options else named
    if not 0 <= number < len(options):
        raise Refused("answer-unknown", f"the answer {answer[:40]!r} is none of {len(options)} options")
    letter = _LETTERS[number]
    return letter if options[number] == letter else f"{letter}. {options[number]}"


def quiz(question: str, answer: str, at: At, *, options: Sequence[str] = (), solution: str = "") -> tuple[Turn, Turn]:
    """The question as it is asked, and the answer as it is given. `question` is neutral already, but for `<image>`."""
    question, answer, solution = question.strip(), answer.strip(), solution.strip()
    if not question.replace(IMAGE, "").strip():
        raise Refused("question-empty", "the question says nothing")
    if not answer:
        raise Refused("answer-empty", "the answer says nothing")
    language = language_of(at.corpus.language, question)
    request = "explain-answer" if solution else "choose-option" if options else "answer-briefly"
    listed = [f"{letter}. {text}" for letter, text in zip(_LETTERS, options, strict=False) if text != letter]
    asked = "\n".join((question, *(neutralise(text, keep=False) for text in listed)))
    if solution:
        answer = f"{solution}\n{_SAID[language].format(answer.rstrip('.。'))}"
    return exchange(f"{asked}\n{choose(request, language, at)}", neutralise(answer, keep=False))
