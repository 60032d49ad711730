"""Identity: what an artifact was made from, as one canonical JSON string that Snakemake tracks.

A job's identity holds the settings its output depends on, the digests of its inputs' identities and a
fingerprint of the code that computes it. Two jobs with equal identities write equal artifacts, and nothing
but a change of identity makes a finished job run again.

The fingerprint covers the definitions (functions, classes, constants) that a stage's module reaches inside this
package, found by following names through the syntax trees. Comments, docstrings, formatting, what an error says and
definitions that the stage never reaches do not count. Modules that are looked up by name at run time (the strategy of
a query, the source of a dataset) are named by the caller.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "allround"
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
    todo = [(module, name) for module in modules for name in (*_definitions(module), "")]
    while todo:
        module, name = todo.pop()
        if (module, name) in seen:
            continue
        nodes = _definitions(module)[name] if name else _effects(module)
        seen[module, name] = "".join(map(_dump, nodes))
        todo += [target for node in nodes for target in _targets(module, node)]
        todo.append((module, ""))
    return digest(canonical([[*key, text] for key, text in sorted(seen.items()) if text]))


def _source(module: str) -> Path | None:
    """The file of a module of this package; None for everything else."""
    if module.split(".")[0] != PACKAGE:
        return None
    stem = ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module).read_text())


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
def _imports(module: str) -> dict[str, tuple[str, str | None]]:
    """Local name -> (module, name in it or None for the module itself), for imports from this package, at any depth."""
    found: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found[alias.asname or alias.name] = (whole, None) if _source(whole) else (node.module, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(
                f"{_source(module)}:{node.lineno}: use absolute imports (the code fingerprint follows names)"
            )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    if not alias.asname:
                        raise ValueError(f"{_source(module)}:{node.lineno}: write 'from {PACKAGE} import ...'")
                    found[alias.asname] = (alias.name, None)
    return found


def _targets(module: str, node: ast.stmt) -> Iterator[tuple[str, str]]:
    """The (module, definition) pairs that a statement refers to."""
    imports, own = _imports(module), _definitions(module)
    for part in _walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in imports:
            target, name = imports[part.value.id]
            if name is None and part.attr in _definitions(target):
                yield target, part.attr
        elif isinstance(part, ast.Name):
            if part.id in own:
                yield module, part.id
            elif part.id in imports:
                target, name = imports[part.id]
                if name is None:
                    yield target, ""
                elif name in _definitions(target):
                    yield target, name
                elif name in _imports(target):  # re-exported
                    yield _imports(target)[name][0], _imports(target)[name][1] or ""


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
    if isinstance(node, ast.Raise):  # whatever is raised, no artifact is written: only that and where count
        return "Raise()"
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
