"""Documents that users copy from say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from allround.strategies import describe, names, settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")


def documented() -> dict[tuple[str, str], str]:
    """(strategy, hyperparameter) -> default as docs/strategies.md gives it."""
    found, strategies = {}, []
    for line in TEXT.partition("## Settings")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[1].startswith("`"):
            strategies = re.findall(r"`(\w+)`", cells[0]) or strategies
            defaults = cells[2].replace("`", "").split(", ")
            for place, strategy in enumerate(strategies):
                found[strategy, cells[1].strip("`")] = defaults[min(place, len(defaults) - 1)]
    return found


def test_every_hyperparameter_is_documented_with_its_default():
    actual = {
        (name, key): "null" if parameter.default is None else str(parameter.default)
        for name in names()
        for key, parameter in describe(name).parameters.items()
    }
    assert documented() == actual


@pytest.mark.parametrize("name", names())
def test_every_strategy_is_documented_with_what_it_was_checked_against(name):
    rows = [line for line in TEXT.partition("## Settings")[0].splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert "@@" not in rows[0]
    for need in describe(name).needs:
        assert f"`{need}`" in rows[0]


def test_every_entry_of_the_catalogue_is_valid_and_every_strategy_has_one_or_an_example():
    text = (ROOT / "config/catalogue/strategies.yaml").read_text(encoding="utf-8")
    used = {settings(entry.get("strategy", name), {key: value for key, value in entry.items() if key != "strategy"}) and
            entry.get("strategy", name) for name, entry in yaml.safe_load(text).items()}  # fmt: skip
    examples = set(re.findall(r"strategy: (\w+)", text))
    assert set(names()) == used | examples
