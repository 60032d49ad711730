"""Identity: what an artifact was made from, as one canonical JSON string that Snakemake tracks.

A job's identity holds the settings its output depends on, the digests of its inputs' identities and a
fingerprint of the code that computes it. Two jobs with equal identities write equal artifacts, and nothing
but a change of identity makes a finished job run again.

The fingerprint covers the definitions (functions, classes, constants) that a stage's module reaches inside this
package, found by following names through the syntax trees. Comments, docstrings, formatting, what an error says,
definitions that the stage never reaches and modules that no result depends on (`PLUMBING`) do not count. Modules that
are looked up by name at run time (the strategy of a query, the source of a dataset) are named by the caller.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "allround"
PLUMBING = frozenset({"allround.gpus"})  # decides when and where a job runs, not what it writes
ROOT = Path(__file__).parent


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces; refuses what JSON cannot hold exactly."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def fingerprint(*modules: str) -> str:
    """Hash of the code that `modules` (dotted, inside this package) run, comments and docstrings left out."""
    seen: dict[tuple[str, str], str] = {}
    todo = [target for module in modules for target in _whole(module)]
    while todo:
        place = todo.pop()
        if place not in seen and place[0] not in PLUMBING:
            seen[place], reached = _piece(*place)
            todo += reached
    return digest(canonical([[*key, text] for key, text in sorted(seen.items()) if text]))


@cache
def _piece(module: str, name: str) -> tuple[str, list[tuple[str, str]]]:
    """A definition's code (name "": a module's effects) and what it reaches; most stages share most pieces."""
    nodes = _definitions(module)[name] if name else _effects(module)
    reached = {target for node in nodes for target in _targets(module, node)}
    reached |= {(imported, "") for imported in _imported_modules(module)}  # importing runs their effects
    reached |= {(parent, "") for parent in _parents(module)} | {(module, "")}
    return "".join(_dump(node) + _origins(module, node) for node in nodes), list(reached)


def _whole(module: str) -> list[tuple[str, str]]:
    """Everything in a module: what is reached where a name cannot be followed."""
    return [(module, name) for name in (*_definitions(module), "")]


def _source(module: str) -> Path | None:
    """The file of a module of this package; None for everything else."""
    if module.split(".")[0] != PACKAGE:
        return None
    stem = ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _parents(module: str) -> list[str]:
    """The packages that importing a module imports first."""
    parts = module.split(".")
    return [name for n in range(1, len(parts)) if _source(name := ".".join(parts[:n]))]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module).read_text(encoding="utf-8"))


@cache
def _definitions(module: str) -> dict[str, list[ast.stmt]]:
    """Top-level name -> the statements that define it."""
    found: dict[str, list[ast.stmt]] = {}
    for node in _tree(module).body:
        for name in _defines(node):
            found.setdefault(name, []).append(node)
    return found


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if all(isinstance(target, ast.Name) for target in targets):
            return [target.id for target in targets]
    return []


def _effects(module: str) -> list[ast.stmt]:
    """The top-level statements that run for their effect: no definitions, imports, docstrings, main block."""
    return [
        node
        for node in _tree(module).body
        if not isinstance(node, (ast.Import, ast.ImportFrom))
        and not _defines(node)
        and not _is_docstring(node)
        and not _is_main(node)
    ]


@cache
def _imports(module: str) -> dict[str, set[tuple[str, str | None]]]:
    """Local name -> what it may stand for, by imports at any depth: (module, name in it or None for the module)."""
    found: dict[str, set[tuple[str, str | None]]] = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom):
            if node.level or any(alias.name == "*" for alias in node.names):
                place = f"{_source(module)}:{node.lineno}"
                raise ValueError(f"{place}: use absolute imports of names (the code fingerprint follows them)")
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = (whole, None) if _source(whole) else (node.module, alias.name)
                found.setdefault(alias.asname or alias.name, set()).add(target)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                found.setdefault(local, set()).add((alias.name if alias.asname else local, None))
    return found


def _imported_modules(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    return {target for targets in _imports(module).values() for target, _ in targets if _source(target)}


def _targets(module: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    """The (module, definition) pairs that a piece of code refers to."""
    if isinstance(node, ast.Raise):
        return
    if isinstance(node, (ast.Name, ast.Attribute)):
        chain = _chain(node)
        if chain:
            yield from _follow(module, chain)
            return
    for child in ast.iter_child_nodes(node):
        yield from _targets(module, child)


def _chain(node: ast.AST) -> list[str] | None:
    """['a', 'b', 'c'] for the expression a.b.c; None for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else None


def _follow(module: str, chain: list[str]) -> Iterator[tuple[str, str]]:
    """The definitions that a.b.c reaches in `module`; a whole module where the trail ends at one."""
    if chain[0] in _definitions(module):
        yield module, chain[0]
    for target, name in _imports(module).get(chain[0], ()):
        if not _source(target):
            continue
        if name is not None:
            yield from _follow(target, [name])
            continue
        rest = chain[1:]
        while rest and _source(f"{target}.{rest[0]}"):
            target, rest = f"{target}.{rest[0]}", rest[1:]
        reached = list(_follow(target, rest)) if rest else []
        yield from reached or _whole(target)


def _origins(module: str, node: ast.AST) -> str:
    """Where the names of a piece of code come from that other packages define: swapping an import changes the code."""
    names = {part.id for part in _walk(node) if isinstance(part, ast.Name)}
    found = {
        f"{name}={target}.{inside or ''}"
        for name in names
        for target, inside in _imports(module).get(name, ())
        if not _source(target)
    }
    return canonical(sorted(found)) if found else ""


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but what is raised."""
    yield node
    if not isinstance(node, ast.Raise):
        for child in ast.iter_child_nodes(node):
            yield from _walk(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_main(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":` wires a stage to its command line, which changes no result."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def _dump(node: object) -> str:
    """A syntax tree as text: the same on every Python version, without positions, docstrings or empty fields."""
    if isinstance(node, ast.Raise):  # what is raised counts, what it says does not: no artifact is written
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return f"Raise({_dump(raised)})"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment"))
        inside = ",".join(f"{name}={_dump(value)}" for name, value in fields if value not in (None, []))
        # `value=None` and a missing value differ: a Constant keeps its field
        return f"{type(node).__name__}({inside or (repr(node.value) if isinstance(node, ast.Constant) else '')})"
    if isinstance(node, list):
        return "[" + ",".join(_dump(item) for item in node if not _is_docstring(item)) + "]"
    return repr(node)


def identity(stage: str, *, cell: dict, settings: dict, inputs: dict[str, str], modules: Iterable[str] = ()) -> str:
    """The identity of one job, as canonical JSON.

    stage: name of the stage, a module of allround.stages
    cell: where the artifact belongs: dataset, learner, start, arm, seed, round (as many as apply)
    settings: the parameters that the output depends on
    inputs: name -> identity string of the job that makes that input; kept as digests
    modules: modules that the stage looks up by name at run time
    """
    code = fingerprint(f"{PACKAGE}.stages.{stage}", *sorted(modules))
    sources = {name: digest(text) for name, text in inputs.items()}
    return canonical({"stage": stage, "cell": cell, "settings": settings, "inputs": sources, "code": code})
