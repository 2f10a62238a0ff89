"""The catalog of every format, on the small public corpora where they are at hand; what is refused is explained."""

from pathlib import Path

import pytest

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool

ROOT = Path(__file__).parents[1]
CORPORA = ROOT.parent / "shared" / "corpora"


@pytest.mark.skipif(not CORPORA.exists(), reason="the small public corpora are not beside this clone")
def test_every_format_ingests_and_every_refusal_is_explained(tmp_path):
    catalog = read_catalog(ROOT / "examples/formats.yaml", CORPORA)
    with open_pool(1) as pool:
        reports = ingest(catalog, Lake(str(tmp_path / "lake")), pool, quiet=True)
    assert sum(one.records for one in reports) == 6145
    assert sum(one.samples for one in reports) == 5385
    page = (ROOT / "docs/quarantine.md").read_text().split("examples/formats.yaml")[1]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for one in reports:
        said = " ".join(row for row in rows if one.corpus in row.split("|")[1])
        for code, count in one.quarantined.items():
            assert code in said, f"{one.corpus}: {count} {code}"
            assert str(count) in said, f"{one.corpus}: {count} {code}"
