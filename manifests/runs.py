"""A run, held against the manifests it claims to have trained on: `tarsia audit LAKE --run LOG`.

A log is what `Account.log` wrote. Its last line says which global batches were handed out to which rank of how many,
and what came of them. From the first follows, position by position, what the trainer must have seen, in every epoch,
over all resumes: nothing twice, nothing left out. From the manifest's own rows follows what those contexts count for;
both must agree to the token. What was skipped because its bytes were broken was promised and not kept: a finding.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tarsia.builders.columns import plain
from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table
from tarsia.manifests.account import FIGURES
from tarsia.manifests.findings import Audit, Book
from tarsia.manifests.order import Order
from tarsia.manifests.places import Group, grouped, microseconds
from tarsia.manifests.stream import load_manifest, manifest_digest, order_of
from tarsia.schemas.errors import NotThere, UserError
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.model import Model

Int64s = npt.NDArray[np.int64]
_SHOWN = 3  # runs of positions that a finding lists


class Figures(Model):
    """What a run was handed of one corpus, language and modality, and what was promised for the whole run."""

    corpus: str
    kind: str
    language: str
    modality: str
    samples: int
    questions: int
    tokens: int
    microseconds: int
    promised_samples: int
    promised_tokens: int


class Run(Model):
    """One stage of a run, as its log tells it."""

    stage: str
    step: int
    epochs: int
    contexts: int  # handed out
    promised: int
    figures: tuple[Figures, ...]


class RunAudit(Audit):
    """What was looked at and what did not agree, with what the runs were handed."""

    runs: tuple[Run, ...]


def audit_runs(lake: Lake, logs: Sequence[str], *, so_far: bool = False) -> RunAudit:
    """Compares logs with the manifests of a lake; several logs of a stage are ranks that logged apart.

    `so_far`: the run still goes on, and what comes after the last batch is no disagreement.
    """
    book, runs = Book(), []
    stages: dict[str, list[dict[str, Any]]] = {}
    for log in logs:
        for stage, line in _last(log).items():
            stages.setdefault(stage, []).append(line)
    for stage, lines in stages.items():
        with book.reading(stage):
            manifest = load_manifest(lake.url, stage)
            mine = manifest_digest(manifest)
            for line in lines:
                book.equal(stage, "manifest", line["manifest"], mine[:32])
            if all(line["manifest"] == mine[:32] for line in lines):
                runs.append(_compare(lake, manifest, order_of(manifest), lines, book, so_far))
    return RunAudit(checks=book.checks, findings=tuple(book.findings), runs=tuple(runs))


def _last(log: str) -> dict[str, dict[str, Any]]:
    """The last line of a log for each stage. A line without an end was cut off with its process."""
    try:
        lines = Path(log).read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise NotThere(f"cannot read the log '{log}': {error.strerror}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            try:
                fields = orjson.loads(line)
                found[fields["stage"]] = fields
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise UserError(f"{log}, line {number}: not a line that Account.log writes") from None
    if not found:
        raise UserError(f"{log} holds no line; the trainer writes them with Account.log(path, step)")
    return found


def _compare(
    lake: Lake, manifest: Manifest, order: Order, lines: Sequence[dict[str, Any]], book: Book, so_far: bool
) -> Run:
    where, epochs = f"{manifest.model}/{manifest.name}", max(line["epochs"] for line in lines)
    often = _handed(manifest.contexts, epochs, [part for line in lines for part in line["covered"]], where, book)
    end = int(np.flatnonzero(often)[-1]) + 1 if often.any() else 0
    _check_once(often[: end if so_far else None], manifest.contexts, where, book)
    seen = np.zeros(manifest.contexts, np.int64)
    for epoch in range(epochs):
        np.add.at(seen, order.epoch(epoch), often[epoch * manifest.contexts : (epoch + 1) * manifest.contexts])
    book.equal(where, "contexts", sum(line["contexts"] for line in lines), int(often.sum()))
    columns = ("context", "slot", "key", *Group._fields, "questions", "tokens", "seconds")
    table = get_table(lake.store, manifest.tables["samples"], columns, verify=True).combine_chunks()
    rows = {name: table[name].chunk(0) for name in columns} if len(table) else None
    realised = _sums(line["figures"] for line in lines)
    missing = [one for line in lines for one in line["missing"]]
    promised: dict[Group, tuple[int, ...]] = {}
    if rows is not None:
        numbers, groups = grouped(rows)
        figures = np.stack(
            [
                np.ones(len(numbers), np.int64),
                *(plain(rows[name]).astype(np.int64) for name in ("questions", "tokens")),
                microseconds(rows["seconds"]),
            ]
        )
        contexts = plain(rows["context"])
        weights = seen[contexts]
        for one in missing:
            weights[_row(one, contexts, rows, where, book)] -= 1
        for number, group in enumerate(groups):
            mine = numbers == number
            due = (figures[:, mine] * weights[mine]).sum(axis=1).tolist()
            for name, expected, found in zip(FIGURES, due, realised.pop(group, [0] * 4), strict=True):
                book.equal(where, f"{name} of {', '.join(group)}", found, expected)
            promised[group] = (*due, *(figures[:3:2, mine].sum(axis=1) * epochs).tolist())
    for group in realised:
        book.check(where, False, f"the run had samples of {', '.join(group)}; the manifest has none")
    for one in missing:
        lying = f"{one['path']} at byte {one['offset']}"
        said = f"sample {one['key']} of context {one['context']} was missing in epoch {one['epoch']}: {lying}"
        book.check(where, False, said)
    return Run(
        stage=where,
        step=max(line["step"] for line in lines),
        epochs=epochs,
        contexts=int(often.sum()),
        promised=epochs * manifest.contexts,
        figures=tuple(
            Figures.model_validate({**group._asdict(), **dict(zip(_ALL, values, strict=True))})
            for group, values in promised.items()
        ),
    )


_ALL = (*FIGURES, "promised_samples", "promised_tokens")


def _sums(many: Iterable[Sequence[dict[str, Any]]]) -> dict[Group, list[int]]:
    sums: dict[Group, list[int]] = {}
    for figures in many:
        for row in figures:
            group = sums.setdefault(Group(*(row[name] for name in Group._fields)), [0] * 4)
            for which, name in enumerate(FIGURES):
                group[which] += row[name]
    return sums


def _row(one: dict[str, Any], contexts: Any, rows: dict[str, Any], where: str, book: Book) -> list[int]:
    """The row of a missing sample, in a list that is empty where the manifest has no such sample."""
    row = int(np.searchsorted(contexts, one["context"])) + one["slot"]
    there = row < len(contexts) and contexts[row] == one["context"] and rows["key"][row].as_py() == one["key"]
    book.check(where, there, f"missing sample {one['key']} is not in slot {one['slot']} of context {one['context']}")
    return [row] if there else []


def _handed(contexts: int, epochs: int, parts: Sequence[dict[str, Any]], where: str, book: Book) -> Int64s:
    """How often each position of each epoch was handed out, epoch after epoch."""
    change = np.zeros(epochs * contexts + 1, np.int64)
    for part in parts:
        edges = sorted(tuple(edge) for edge in part["edges"])
        levels = accumulate(by for _, by in edges)
        for (begin, _), (end, _), level in zip(edges, edges[1:], levels, strict=False):
            inside = 0 <= begin <= end <= contexts and 0 <= part["epoch"] < epochs
            book.check(where, inside, f"positions {begin} to {end - 1} of epoch {part['epoch']} do not exist")
            if inside and level:
                begins = np.arange(begin, end, part["batch"])
                sizes = np.minimum(begins + part["batch"], end) - begins
                begins += part["epoch"] * contexts
                for rank in part["ranks"]:
                    np.add.at(change, begins + sizes * rank // part["world"], level)
                    np.add.at(change, begins + sizes * (rank + 1) // part["world"], -level)
    return np.cumsum(change)[:-1]


def _check_once(often: Int64s, contexts: int, where: str, book: Book) -> None:
    """Every position was handed out once."""
    for wrong, said in ((often == 0, "never handed out"), (often > 1, "handed out more than once")):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], wrong.astype(np.int8), [0]])))
        runs = [
            f"{begin % contexts} to {(end - 1) % contexts} of epoch {begin // contexts}"
            for begin, end in edges[: 2 * _SHOWN].reshape(-1, 2).tolist()
        ]
        more = f" and {len(edges) // 2 - _SHOWN} more runs" if len(edges) > 2 * _SHOWN else ""
        book.check(where, not wrong.any(), f"{int(wrong.sum())} positions {said}: {'; '.join(runs)}{more}")
