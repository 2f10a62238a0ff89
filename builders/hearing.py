"""Whether a clip says its text: a recogniser writes down what it hears, and the two are compared in words.

Both sides are normalised (numbers in words, lower case, no marks; in Mandarin traditional characters made simple, 两
and 幺 counted as 二 and 一), so that only sounds can differ. English is counted in words, Mandarin in characters:
misheard, missing and added ones, of those that the text has. A clip above the limit is refused as `misheard`.

A check is no part of a voice's identity, for the clip sounds the same whoever listens. It is part of a pool, as is what
detects speech in it: the first run in a lake settles how the pool's clips are checked, and later runs must check alike,
or be another pool.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache

from tarsia.builders import detectors
from tarsia.builders.fleet import pause as usual_pause
from tarsia.builders.normalise import normalise
from tarsia.builders.recognisers import Transcript, find
from tarsia.builders.spelling import simplified
from tarsia.builders.storage import Store
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import BadVoices, Exists, NotThere, Refused
from tarsia.schemas.identity import canonical
from tarsia.schemas.voice import Check, Pool

_HEARD_MOST = 120  # characters that a message quotes


class Listener:
    """One check at work. For many threads."""

    def __init__(self, check: Check, *, pause: Callable[[int], float] = usual_pause) -> None:
        self._check = check
        self._ears = find(check.recogniser).open_ears(check, pause=pause)

    def listen(self, wave: Wave, spoken: str, language: str) -> Transcript | None:
        """What was heard, if the clip says its text; else `Misheard`. `Unwell` if nobody listens.

        None where the language has no limit: such clips are not listened to.
        """
        most = self._check.limit(language)
        if most is None:
            return None
        heard = self._ears.hear(wave, language)
        transcript = Transcript(heard, misheard(spoken, heard, language))
        if transcript.missed > most:
            raise Misheard(spoken, transcript)
        return transcript


class Misheard(Refused):
    """A clip that does not say its text, as far as the recogniser can tell."""

    def __init__(self, spoken: str, transcript: Transcript) -> None:
        said, heard = spoken[:_HEARD_MOST], transcript.heard[:_HEARD_MOST]
        super().__init__("misheard", f"{transcript.missed:.0%} of '{said}' in '{heard}'")
        self.transcript = transcript


@lru_cache(maxsize=8)
def _listener(page: str) -> Listener:
    return Listener(Check.model_validate_json(page))


def listener(check: Check) -> Listener:
    """The listener of a check, one in a process: models take seconds to load."""
    return _listener(check.model_dump_json())


def misheard(said: str, heard: str, language: str) -> float:
    """The share of a text that was not heard, or heard beside it: word errors in English, characters in Mandarin.

    >>> misheard("how many is two plus two", "How many is 2 plus 3?", "en")
    0.16666666666666666
    """
    wanted, got = _units(said, language), _units(heard, language)
    return _distance(wanted, got) / max(1, len(wanted))


def _units(text: str, language: str) -> list[str]:
    """What is counted of a text."""
    words = normalise(text, language).lower().replace("-", " ")
    if language == "en":
        return [_SAME.get(word, word) for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", words)]
    return list(re.sub(r"[\W\d_]", "", simplified(words)).translate(_ALIKE))


_SAME = {"ok": "okay", "mister": "mr", "missus": "mrs", "doctor": "dr", "favourite": "favorite", "colour": "color",
         "colours": "colors", "centre": "center", "metres": "meters", "grey": "gray"}  # fmt: skip
_ALIKE = str.maketrans("两幺〇她它妳", "二一零他他你")


def _distance(wanted: Sequence[str], got: Sequence[str]) -> int:
    """How many units must be changed, left out or added to make one out of the other."""
    row = list(range(len(got) + 1))
    for place, one in enumerate(wanted, start=1):
        before, row[0] = row[0], place
        for column, other in enumerate(got, start=1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (one != other))
    return row[-1]


# --- what a lake says of a pool's check -----------------------------------------------------------------------------


def settle(store: Store, pool: Pool) -> None:
    """Publishes how the clips of a pool are checked; `BadVoices` if those that are there were checked otherwise."""
    path = f"voices/{pool.name}/check.json"
    if pool.check:
        listener(pool.check)  # tells what is wrong with it before all work
    settings = identity(pool)
    mine = canonical(settings) if settings else b""
    if mine and not _stands(store, path) and not next(iter(store.list(f"verdicts/{pool.name}")), None):
        with suppress(Exists):
            store.create(path, mine)
    theirs = store.read(path) if _stands(store, path) else b""
    if mine != theirs:
        said = [page.decode() if page else "no check" for page in (theirs, mine)]
        raise BadVoices(
            f"pool '{pool.name}': its clips in this lake were made with {said[0]}, and now there is {said[1]}; "
            "undo that, or give the pool another name (that of its file): its clips are then made anew"
        )


def identity(pool: Pool) -> dict[str, object]:
    """Everything that a judgement depends on besides this package's own rules; not where the servers are."""
    settings: dict[str, object] = {}
    if pool.check:
        fields = pool.check.model_dump(mode="json", exclude={"endpoints"})
        settings |= {**fields, "version": find(pool.check.recogniser).version()}
    if pool.detector != "energy":
        settings["detector"] = f"{pool.detector} of {detectors.version(pool.detector)}"
    return settings


def _stands(store: Store, path: str) -> bool:
    try:
        store.read(path)
    except NotThere:
        return False
    return True
