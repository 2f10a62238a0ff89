"""Tables of text with a delimiter between their columns: TSV, CSV, bars. Rows come with the bytes they stand in."""

import csv
from collections.abc import Iterator
from typing import NamedTuple

from tarsia.builders.corpora import Fault
from tarsia.builders.reading.jsonfile import KEPT
from tarsia.builders.reading.textfile import Line, lines
from tarsia.builders.storage import Store

_QUOTED = 1 << 20  # characters of one row in which a quotation mark is waited for


class Row(NamedTuple):
    """The cells of one row, and where its bytes lie in the file."""

    cells: list[str]
    begin: int
    end: int


def rows(source: Store, file: str, *, delimiter: str, quoted: bool) -> Iterator[Row | Fault]:
    """The rows of a UTF-8 file. Where cells are quoted (CSV), a row may go over several lines."""
    for line in _joined(source, file) if quoted else lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        try:
            cells = next(csv.reader([line.text], delimiter=delimiter, strict=True)) if quoted else None
        except csv.Error as error:
            yield Fault("record-shape", f"{error}", line.text.encode()[:KEPT], line.begin, line.end)
            continue
        yield Row(line.text.split(delimiter) if cells is None else cells, line.begin, line.end)


def table(
    source: Store, file: str, *, delimiter: str, quoted: bool
) -> Iterator[tuple[dict[str, str], int, int] | Fault]:
    """The rows of a file whose first row names the columns, by those names. Rows of another length are faults."""
    header: list[str] | None = None
    for row in rows(source, file, delimiter=delimiter, quoted=quoted):
        if isinstance(row, Fault):
            yield row
        elif header is None:
            header = [cell.strip() for cell in row.cells]
        elif len(row.cells) != len(header):
            message = f"{len(row.cells)} columns; {len(header)} were due"
            yield Fault("record-shape", message, delimiter.join(row.cells).encode()[:KEPT], row.begin, row.end)
        else:
            yield dict(zip(header, row.cells, strict=True)), row.begin, row.end


def _joined(source: Store, file: str) -> Iterator[Line | Fault]:
    """The lines, those put together in which a quotation mark is open."""
    whole: Line | None = None
    for line in lines(source, file):
        if isinstance(line, Fault):
            yield line
            continue
        whole = line if whole is None else Line(f"{whole.text}\n{line.text}", whole.begin, line.end)
        if whole.text.count('"') % 2 == 0 or len(whole.text) > _QUOTED:
            yield whole
            whole = None
    if whole is not None:
        yield whole
