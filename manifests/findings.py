"""What an audit writes down: how much it looked at, and what did not agree."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb

from tarsia.schemas.errors import TarsiaError
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.model import Model


class Finding(Model):
    """One disagreement: where, and what."""

    where: str
    what: str


class Audit(Model):
    """What was looked at, and what did not agree."""

    checks: int
    findings: tuple[Finding, ...]


class Book:
    """Collects checks and findings."""

    def __init__(self) -> None:
        self.checks = 0
        self.findings: list[Finding] = []

    def check(self, where: str, ok: bool, what: str) -> None:
        """Notes one check."""
        self.checks += 1
        if not ok:
            self.findings.append(Finding(where=where, what=what))

    def equal(self, where: str, name: str, claimed: Any, found: Any) -> None:
        """Notes that two figures should be the same; seconds to a microsecond in a million."""
        same = claimed == found
        if isinstance(claimed, float) and isinstance(found, float | int):
            same = abs(claimed - found) <= 1e-6 * max(1.0, abs(claimed))
        self.check(where, same, f"{name}: recorded {claimed}, found {found}")

    @contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Whatever stored data make a check stumble over is a finding too: an audit always ends with a report."""
        try:
            yield
        except TarsiaError as error:
            self.check(where, False, str(error))
        except Exception as error:
            self.check(where, False, f"cannot be checked: {type(error).__name__}: {error}")


class StageTables(NamedTuple):
    """A manifest, and the tables it is compared with under their names in `sql`."""

    manifest: Manifest
    where: str
    source: Snapshot
    sql: duckdb.DuckDBPyConnection
    book: Book

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The only row of a query."""
        (row,) = self.sql.execute(query, values).fetchall()
        return tuple(row)

    def none(self, query: str, what: str, *values: Any) -> None:
        """A query that should find nothing; the first three that it finds are said."""
        found = self.sql.execute(f"{query} limit 3", values).fetchall()
        self.book.check(self.where, not found, f"{what}: {'; '.join(str(row) for row in found)}")
