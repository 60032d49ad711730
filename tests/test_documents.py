"""Documents that users copy from say what the code says.

Every strategy that ships is documented in full. One ships as soon as a test in tests/references names it or one of the
tables has a row for it; a file of a user's own that neither does is held to the contract alone (test_strategies.py).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from allround.strategies import describe, names, settings

ROOT = Path(__file__).parents[1]


def rows(document: str, heading: str) -> list[list[str]]:
    """Cells of the rows that begin with a strategy, in the tables under a heading."""
    text = (ROOT / document).read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    text = re.split(rf"^#{{1,{heading.index(' ')}}} ", text, flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
    return [row for row in cells if row and row[0].startswith("`")]


PICKS = rows("docs/strategies.md", "## The strategies")
HYPERPARAMETERS = rows("docs/strategies.md", "### Hyperparameters")
COSTS = rows("docs/references.md", "## Memory and time")
CHECKS = rows("docs/references.md", "## Checked against")
REFERENCES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests/references").glob("*.py")))


def in_backticks(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


LISTED = {name for row in PICKS + HYPERPARAMETERS + COSTS + CHECKS for name in in_backticks(row[0])}
SHIPPED = [name for name in names() if name in LISTED or f'"{name}"' in REFERENCES]


def test_every_hyperparameter_is_documented_with_its_default():
    documented = [
        (name, row[1].strip("`"), row[2].strip("`")) for row in HYPERPARAMETERS for name in in_backticks(row[0])
    ]
    actual = [
        (name, key, "null" if parameter.default is None else str(parameter.default))
        for name in SHIPPED
        for key, parameter in describe(name).parameters.items()
    ]
    assert sorted(documented) == sorted(actual)


def test_every_row_has_its_cells_and_is_of_a_strategy_that_exists():
    for table, width in ((PICKS, 4), (HYPERPARAMETERS, 4), (COSTS, 3), (CHECKS, 3)):
        assert [row for row in table if len(row) != width or not all(row) or "@@" in "".join(row)] == []
    assert set(names()) >= LISTED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_strategy_is_documented_with_its_needs_its_cost_and_what_it_was_checked_against(name):
    own = [[row for row in table if row[0] == f"`{name}`"] for table in (PICKS, COSTS, CHECKS)]
    assert [len(found) for found in own[:2]] == [1, 1]
    assert own[2]
    needs = {word for word in in_backticks(own[0][0][3]) if ":" not in word}
    assert needs == set(describe(name).needs)


def test_every_entry_of_the_catalogue_is_valid_and_every_strategy_has_one_or_an_example():
    text = (ROOT / "config/catalogue/strategies.yaml").read_text(encoding="utf-8")
    used = {settings(entry.get("strategy", name), {key: value for key, value in entry.items() if key != "strategy"}) and
            entry.get("strategy", name) for name, entry in yaml.safe_load(text).items()}  # fmt: skip
    examples = set(re.findall(r"strategy: (\w+)", text))
    assert set(SHIPPED) <= used | examples <= set(names())
