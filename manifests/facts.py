"""What planning reads of one corpus: the facts of its index, the costs of its samples, the verdicts of its voices.

Names are held as short codes and hex digits as bytes: a lake may have thirty million samples.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.builders.columns import Words, whole, words
from tarsia.builders.tables import plain
from tarsia.manifests.select import Rows
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.sample import MADE, unsaid
from tarsia.schemas.shard import INDEX, SPEECH

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]

_BYTES, _FEW = pa.binary(16), pa.dictionary(pa.int16(), pa.string())


def lean(fields: Iterable[pa.Field]) -> pa.Schema:
    """The fields as plans hold them, thirty million rows at once: hex digits as bytes, names as short codes."""
    types = {"key": _BYTES, "record": _BYTES, **dict.fromkeys(("corpus", "kind", "language", "modality"), _FEW)}
    return pa.schema([field.with_type(types.get(field.name, field.type)) for field in fields])


def _lean(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return lean(schema.field(name) for name in columns)


def _list_of(schema: pa.Schema, name: str, *fields: str) -> pa.Field:
    """A list of structs of which only some fields are read."""
    kind = schema.field(name).type.value_type
    return pa.field(name, pa.list_(pa.struct([kind.field(field) for field in fields])))


#: What is read of the tables of a lake: to plan, and (`SPEAKING`, `SAID`) to speak.
SAMPLES_OF = _lean(INDEX, ("key", "language", "modality", "questions", "offset", "length", "checksum"))
SPEAKING = SAMPLES_OF.append(pa.field("record", _BYTES))
SAID = _lean(SPEECH, ("key", "record", "clips", "refused", "offset", "length", "checksum"))
VERDICTS_OF = SAID.set(2, _list_of(SPEECH, "clips", "turn", "samples16")).set(3, _list_of(SPEECH, "refused", "turn"))


class Corpus(NamedTuple):
    """What planning reads of one corpus; rows are in draw order, `shard` numbers its tars from 0.

    `speech` has the sidecars' rows, with the `row` of the sample that each was said for: -1 where none stands there any
    more, or another record does.
    """

    state: CorpusState
    index: pa.Table
    shard: Int32s
    costs: pa.Table
    speech_state: SpeechState | None
    speech: pa.Table | None
    speech_shard: Int32s

    @property
    def draws(self) -> Draws:
        """The draws, sorted."""
        return self.words[:, 0].astype(np.uint64)

    @property
    def words(self) -> Words:
        """The two halves of each key."""
        return words(whole(self.index["key"]))

    @property
    def questions(self) -> Int32s:
        """Human turns of each sample."""
        return cast(Int32s, column(self.index, "questions"))

    @property
    def stands(self) -> Bools:
        """Which samples were not taken down."""
        return np.asarray(column(self.index, "length") > 0)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Audio of each sample as it stands in the corpus."""
        return cast(npt.NDArray[np.float64], column(self.costs, "seconds"))

    @property
    def unsaid(self) -> Bools:
        """The samples that train nothing until a voice has said them."""
        kind, modality = self.state.corpus.kind, whole(self.index["modality"])
        if kind not in MADE or not len(modality):
            return np.broadcast_to(np.False_, len(self.index))
        wanting = np.array([unsaid(kind, name) for name in modality.dictionary.to_pylist()], np.bool_)
        return np.asarray(wanting[plain(modality.indices)])


def column(table: Any, name: str) -> Any:
    """A column of numbers without nulls, of whatever has columns, as a numpy array."""
    return plain(whole(table.column(name)))


def groups(samples: pa.Table) -> tuple[Int32s, list[tuple[str, str]]]:
    """For each sample the number of its language and modality, and these by their number."""
    languages, modalities = (whole(samples[name]) for name in ("language", "modality"))
    width = max(1, len(modalities.dictionary))
    pairs = plain(languages.indices) * np.int32(width) + plain(modalities.indices)
    found = np.flatnonzero(np.bincount(pairs, minlength=1))
    number = np.zeros(int(pairs.max(initial=0)) + 1, np.int32)
    number[found] = np.arange(len(found))
    named = [languages.dictionary.to_pylist(), modalities.dictionary.to_pylist()]
    return number[pairs], [(named[0][pair // width], named[1][pair % width]) for pair in found.tolist()]


def picked(table: pa.Table, rows: Rows) -> pa.Table:
    """Some rows of a table. An arc is one run of rows, or two: a view that copies nothing."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    if len(breaks) > 1:
        return table.take(pa.array(rows))
    runs = [run for run in np.split(rows, breaks) if len(run)]
    return pa.concat_tables([table.slice(0, 0), *(table.slice(int(run[0]), len(run)) for run in runs)])
