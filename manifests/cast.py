"""Who asks which question: a voice of its language, by draw, in proportion to the voices' shares.

Every voice draws a lot of its own for every question, and the best lot wins (weighted rendezvous: the least of
-ln(u) / share, u even in (0, 1)). A lot depends on the question and the voice's name alone. So a voice that is added
takes its share of the questions and leaves the rest where they are; one that is removed gives its own to the others;
one that is replaced under its name is replaced where it spoke, and nowhere else.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.manifests.select import Rows
from tarsia.schemas.identity import Draws, redraws
from tarsia.schemas.voice import Part


def cast(parts: Sequence[Part], draws: Draws, turns: Rows, languages: pa.Array) -> npt.NDArray[np.int32]:
    """The number of each question's voice, -1 where none speaks its language.

    Of each question: the draw of its sample, its turn there, its language.
    """
    best = np.full(len(draws), np.inf)
    chosen = np.full(len(draws), -1, np.int32)
    named = languages.dictionary_encode() if not pa.types.is_dictionary(languages.type) else languages
    tongue, tongues = named.indices.to_numpy(), named.dictionary.to_pylist()
    for number, part in enumerate(parts):
        if part.language not in tongues:
            continue
        mine = np.flatnonzero(tongue == tongues.index(part.language))
        lots = redraws(draws[mine], f"voice {part.name}", turns[mine].astype(np.uint64))
        even = ((lots >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        scores = -np.log(even) / float(part.share)
        better = scores < best[mine]
        best[mine[better]] = scores[better]
        chosen[mine[better]] = number
    return chosen


def identities(parts: Sequence[Part], chosen: npt.NDArray[np.int32]) -> npt.NDArray[np.str_]:
    """The identity of each question's voice, empty where there is none."""
    return np.array([*(part.identity for part in parts), ""])[chosen]
