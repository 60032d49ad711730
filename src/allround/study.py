"""The configuration: catalogue + study + site, checked as a whole before any job starts.

Everything here runs when Snakemake reads the Snakefile, so it imports nothing heavy: strategies, learners and sources
of datasets describe themselves through their syntax trees.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from allround import datasets, example_sets, learners, strategies
from allround.datasets import shapes
from allround.errors import AllroundError, unknown
from allround.layout import START, Cell, arm, dataset_path
from allround.sizes import check_size

TAKEN = {"datasets", "studies"}  # folders of results/ that no dataset may have as its own


@dataclass(frozen=True, eq=False)
class Study:
    """A grid of datasets x learners x strategies x seeds, every name resolved.

    datasets: name -> {"source", "options"}
    learners: name -> settings, completed with defaults
    strategies: name -> {"strategy": file, "hyperparameters", "needs"}
    start: {"name", "size", "by"}; budget: labels a query; rounds: trainings an arm, round 0 included
    """

    name: str
    description: str
    datasets: dict[str, dict]
    learners: dict[str, dict]
    strategies: dict[str, dict]
    start: dict
    budget: int
    rounds: int
    seeds: list[int]

    @property
    def arms(self) -> dict[str, str]:
        """Folder of an arm ('margin@20') -> name of its strategy."""
        return {arm(name, self.budget): name for name in self.strategies}

    @property
    def labels_needed(self) -> int:
        """Size of the labelled set in the last round."""
        return self.start["size"] + (self.rounds - 1) * self.budget

    def cells(self) -> list[Cell]:
        """Every cell that is trained, the shared round 0 once."""
        return [
            Cell(dataset, learner, self.start["name"], folder, seed, number)
            for dataset in self.datasets
            for learner in self.learners
            for seed in self.seeds
            for number in range(self.rounds)
            for folder in ([START] if number == 0 else self.arms)
        ]

    def as_dict(self) -> dict:
        """The study as it stands in the identity of its report."""
        return {
            "name": self.name,
            "description": self.description,
            "datasets": self.datasets,
            "learners": self.learners,
            "strategies": {
                name: {key: entry[key] for key in ("strategy", "hyperparameters")}
                for name, entry in self.strategies.items()
            },
            "start": self.start,
            "budget": self.budget,
            "rounds": self.rounds,
            "seeds": self.seeds,
        }


def wants_gpu(device: str) -> bool:
    """Whether jobs will run on a GPU; `auto` looks for NVIDIA's driver, because importing torch to ask it is slow."""
    return device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())


def site(asked: str | None) -> dict:
    """config/config.yaml of the folder that this runs in; asked: another study than the one that it names."""
    path = Path("config/config.yaml")
    if not path.exists():
        raise AllroundError(f"{path}: no such file; run this in the folder of the Snakefile.")
    return {**_yaml(path), **({"study": asked} if asked else {})}


def load(config: Mapping[str, Any], root: Path, *, look: bool = True) -> Study:
    """Check the site's configuration and the study it names; raise one AllroundError that says what to mend.

    config: config/config.yaml with what --config changed
    root: the folder that holds config/ and workflow/
    look: whether to look at the datasets, too; of many files that takes a while
    """
    schemas = root / "workflow/schemas"
    _check(config, schemas / "config.schema.yaml", "config/config.yaml (or --config)")
    path = _study_path(str(config["study"]), root / "config/studies")
    entry = _yaml(path)
    _check(entry, schemas / "study.schema.yaml", str(path))
    catalogue = root / "config/catalogue"
    for name in sorted(TAKEN & set(entry["datasets"])):
        raise AllroundError(f"{path} key 'datasets': results/{name}/ holds something else; rename dataset '{name}'.")
    seeds = entry["seeds"]
    study = Study(
        name=path.stem,
        description=entry.get("description", ""),
        datasets=_pick(entry, "datasets", catalogue, path, _dataset),
        learners=_pick(entry, "learners", catalogue, path, _learner),
        strategies=_pick(entry, "strategies", catalogue, path, _strategy),
        start={"name": f"{entry['start']['by']}{entry['start']['size']}", **entry["start"]},
        budget=entry["budget"],
        rounds=entry["rounds"],
        seeds=list(range(seeds)) if isinstance(seeds, int) else seeds,
    )
    for name, strategy in study.strategies.items():
        strategies.check_partitions(
            strategy["hyperparameters"].get("partitions", 1), study.budget, f"{path}: '{name}': "
        )
    for name, dataset in study.datasets.items() if look else ():
        _check_dataset(study, name, dataset, Path(config["data"]), path)
    return study


def _study_path(name: str, folder: Path) -> Path:
    """A study given by name or by path."""
    if len(Path(name).name) > 100 or "\0" in name:
        raise AllroundError(f"study {name[:100]}...: allowed: names of at most 100 characters, or the path of a file.")
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise AllroundError(f"study {name}: no such file; give a path that exists or one of: {_names(folder)}.")
        path, shipped = Path(name), folder / f"{Path(name).stem}.yaml"
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", path.stem):
            raise AllroundError(f"study {name}: its file name names its results; allowed: letters, digits, _, - and .")
        if shipped.is_file() and not shipped.samefile(path):
            raise AllroundError(f"study {name}: {shipped} has the same name and would share its results; rename one.")
        return path
    if not (folder / f"{name}.yaml").is_file():
        raise unknown("study", name, (file.stem for file in folder.glob("*.yaml")), "config key 'study'")
    return folder / f"{name}.yaml"


def _names(folder: Path) -> str:
    return ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))


def _yaml(path: Path) -> dict:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AllroundError(f"{path}: no such file; restore it from the repository.") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" line {place.line + 1}" if place else ""
        raise AllroundError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(value, dict):
        raise AllroundError(f"{path}: must hold keys and values (key: value).")
    return value


def _pick(study: dict, kind: str, catalogue: Path, path: Path, resolve: Any) -> dict[str, dict]:
    """The entries of catalogue/<kind>.yaml that a study names, each checked and completed."""
    file = catalogue / f"{kind}.yaml"
    entries = _yaml(file)
    for name in study[kind]:
        if name not in entries:
            singular = {"strategies": "strategy"}.get(kind, kind.removesuffix("s"))
            raise unknown(singular, name, entries, f"{path} key '{kind}'")
        if not isinstance(entries[name] or {}, dict):
            raise AllroundError(f"{file} entry '{name}': must hold keys and values, not {entries[name]!r}.")
    return {name: resolve(name, entries[name] or {}, f"{file} entry '{name}'") for name in study[kind]}


def _dataset(name: str, entry: dict, where: str) -> dict:
    return datasets.settings(entry, where)


def _learner(name: str, entry: dict, where: str) -> dict:
    return learners.settings(entry, where)


def _strategy(name: str, entry: dict, where: str) -> dict:
    hyperparameters = {key: value for key, value in entry.items() if key != "strategy"}
    file = entry.get("strategy", name)
    return {"strategy": file, **strategies.settings(file, hyperparameters, where)}


def _check_dataset(study: Study, name: str, dataset: dict, data: Path, path: Path) -> None:
    """What can be known before the first job: the source is there, the pool is large enough, sets exist in it."""
    converted = dataset_path("results", name).exists()
    if not converted and (fault := datasets.missing(dataset["source"], data, dataset["options"])):
        raise AllroundError(f"dataset '{name}': {fault}")
    pool = shapes.of(study, name, data)
    if pool is None:
        return  # damaged: the first stage that reads it says so, and how to mend it
    where, size, classes = f"{path}: dataset '{name}'", pool.train[0], pool.classes
    check_size(where, study.start["size"], len(classes), study.labels_needed, size)
    for strategy, entry in study.strategies.items():
        for key in set(example_sets.NAMES) & set(entry["hyperparameters"]):
            place = f"{where}, strategy '{strategy}' hyperparameter '{key}'"
            example_sets.check_fits(entry["hyperparameters"][key], place, size=size, classes=classes)


def _check(value: Any, schema: Path, where: str) -> None:
    """Validate against a JSON schema; a fault becomes one line: the key, what is allowed, the nearest match."""
    jsonschema = _jsonschema()
    validator = jsonschema.Draft202012Validator(_yaml(schema))
    fault = jsonschema.exceptions.best_match(validator.iter_errors(dict(value)))
    if fault is None:
        return
    key = ".".join(map(str, fault.absolute_path))
    place = f"{where} key '{key}'" if key else where
    if fault.validator == "additionalProperties":
        allowed = fault.schema["properties"]
        raise unknown("key", next(name for name in fault.instance if name not in allowed), allowed, place)
    if fault.validator == "enum":
        raise unknown("value", fault.instance, fault.validator_value, place)
    if fault.validator == "required":
        missing = next(name for name in fault.validator_value if name not in fault.instance)
        hint = fault.schema["properties"].get(missing, {}).get("description", "")
        raise AllroundError(f"{place}: key '{missing}' is missing{f' ({hint})' if hint else ''}.")
    allowed = fault.schema.get("description", "")
    raise AllroundError(f"{place}: {fault.message}{f'; allowed: {allowed}' if allowed else ''}.")


def _jsonschema() -> ModuleType:
    """jsonschema without its check of URIs, which no schema here asks for and whose grammar takes 1.6 s to build."""
    unwanted = "rfc3987_syntax"  # optional; Jupyter brings it along
    before = sys.modules.get(unwanted, sys)
    sys.modules[unwanted] = None
    try:
        import jsonschema
    finally:
        del sys.modules[unwanted]
        if before is not sys:
            sys.modules[unwanted] = before
    return jsonschema
