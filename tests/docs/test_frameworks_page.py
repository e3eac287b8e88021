"""The page on frameworks has a row for each framework in which the tests train."""

from __future__ import annotations

from tests.support.framework_runs import FEATURES, FRAMEWORKS
from tests.support.paths import ROOT
from tools.make_framework_table import HEADER, OTHERS, known_rows


def test_every_framework_has_its_row() -> None:
    text = (ROOT / "docs" / "frameworks.md").read_text()
    rows = known_rows(text)
    assert f"| {' | '.join(HEADER)} |" in text
    assert [*rows] == [*FRAMEWORKS]
    columns = (*FEATURES, *(pair.name for pair in OTHERS))
    for name, (_, versions, *cells) in rows.items():
        framework = FRAMEWORKS[name]
        assert versions[0].isdigit(), name
        for column, cell in zip(columns, cells, strict=True):
            if column in FEATURES and column not in framework.features:
                assert cell == framework.notes.get(column, ""), (name, column)
            elif column in framework.notes:
                assert cell == framework.notes[column], (name, column)
            else:
                assert float(cell) <= 1e-9, (name, column)
