"""How well whisper tiny.en hears our embedded English voices, and what words, speech and hearing cost, in CPU-ms.

    python benchmarks/hearing.py          # 60 of the committed questions, about two CPU-minutes
    python benchmarks/hearing.py 150

Needs the extras speech, hibari and recognise. Limits for a check are chosen by these shares.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tarsia.builders.hearing import misheard
from tarsia.builders.recognisers import find as recogniser
from tarsia.builders.speech import spoken_form, unspeakable
from tarsia.builders.voices import find
from tarsia.schemas.identity import digest
from tarsia.schemas.voice import Check

TASKS = Path(__file__).parents[1] / "examples" / "corpora" / "seed_tasks_en" / "seed_tasks.json"
LIMITS = (0.1, 0.2, 0.3, 0.5)


def main() -> None:
    """Prints a line for the words and one for each voice."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    asked = [task["instruction"] for task in json.loads(TASKS.read_text())]
    asked = sorted({text for text in asked if unspeakable(text, "en") is None}, key=lambda text: digest(text.encode()))
    texts, cost = timed(lambda text: spoken_form(text, "en"), asked[:number])
    print(f"{len(texts)} questions in words: {cost:.2f} CPU-ms each")
    ears = recogniser("whisper").open_ears(Check.model_validate({"recogniser": "whisper", "wer": 0.2}), pause=float)
    for name in ("hibari", "espeak"):
        engine = find(name)
        waves, saying = timed(lambda text, engine=engine: engine.speak(text, language="en", options={}), texts)
        heard, hearing = timed(lambda wave: ears.hear(wave, "en"), waves)
        missed = np.array([misheard(said, other, "en") for said, other in zip(texts, heard, strict=True)])
        shares = ", ".join(f"{(missed <= limit).mean():.0%} at most {limit}" for limit in LIMITS)
        print(f"{name}: {saying:.1f} CPU-ms to say, {hearing:.0f} to hear; {missed.mean():.1%} misheard; {shares}")


def timed(action: Callable[[Any], Any], things: Sequence[Any]) -> tuple[list[Any], float]:
    """What came of each, and what one cost in CPU-ms; the first is done twice, so that loading does not count."""
    action(things[0])
    began = time.process_time()
    done = [action(thing) for thing in things]
    return done, (time.process_time() - began) * 1e3 / len(things)


if __name__ == "__main__":
    main()
