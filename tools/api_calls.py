"""Finds which API calls send which MANSCDP bodies, and which events tell of them, by reading the gateway's source.

No list has to be kept: from every function marked ``@route`` the calls are followed through the resources and services.
``self.x.y()`` is resolved by the type of ``x`` in the constructor; a Protocol there stands for every class that has all its
methods. What is found is what the function and those below it name: models, and fields of ``DeviceControl(...)``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("gateway/http", "gateway/services", "gateway")
BY_FIELD = ("DeviceControl",)
"""Models whose fields are commands: found as ``DeviceControl.guard_cmd``."""
MOST_STEPS = 10
SLACK = 4
"""A call that gets there in so many more steps than another one is about something else (a platform that is removed
stops the cameras it moved)."""
EVENT_SLACK = 2
FOLLOWED = ("gateway.http.", "gateway.services.")
"""Below these is what every message goes through, which tells nothing about a call."""
TAKEN_BY = {"KeepaliveNotify": ("Liveness", "keepalive")}
"""Bodies that the dispatch hands on itself, because they are most of the traffic."""


@dataclass(slots=True)
class Function:
    """One function: what it names, and what it calls. ``owner`` is the class, "" for plain functions."""

    module: str
    owner: str
    name: str
    names: set[str] = field(default_factory=set)
    calls: set[tuple[str, ...]] = field(default_factory=set)
    """``("f",)`` a plain name, ``("self", "m")`` an own method, ``("self", "x", "m")`` a method of an attribute."""
    parameters: frozenset[str] = frozenset()
    route: tuple[str, str] | None = None


@dataclass(slots=True)
class Class:
    module: str
    name: str
    bases: list[str]
    methods: dict[str, Function] = field(default_factory=dict)
    types: dict[str, set[str]] = field(default_factory=dict)
    """Names in the annotation of each attribute."""

    @property
    def protocol(self) -> bool:
        return "Protocol" in self.bases


class Source:
    """All classes and functions of the gateway."""

    def __init__(self, root: Path = ROOT) -> None:
        self.classes: dict[str, list[Class]] = {}
        self.functions: dict[tuple[str, str], Function] = {}
        self.imports: dict[str, dict[str, str]] = {}
        self.tables: dict[tuple[str, str], set[str]] = {}
        self.handlers: list[tuple[str, Function]] = []
        """(model, handler) for everything registered with ``dispatch.on(Model)(handler)``."""
        self._waiting: list[tuple[str, str, str, str]] = []
        for folder in FOLDERS:
            for path in sorted((root / folder).glob("*.py")):
                self._read(".".join(path.relative_to(root).with_suffix("").parts), path)
        for model, (owner, name) in TAKEN_BY.items():
            self.handlers += [
                (model, c.methods[name]) for c in self.classes.get(owner, ()) if name in c.methods
            ]
        for module, owner, model, name in self._waiting:
            known = [c.methods[name] for c in self.classes.get(owner, ()) if name in c.methods]
            self.handlers += [(model, handler) for handler in known if handler.module == module]

    def _read(self, module: str, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.imports[module] = {
            alias.asname or alias.name: node.module or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions[module, node.name] = _function(module, "", node)
            elif isinstance(node, ast.ClassDef):
                self._class(module, node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        self.tables[module, target.id] = set(_names(node.value))

    def _class(self, module: str, node: ast.ClassDef) -> None:
        found = Class(module, node.name, [n for base in node.bases for n in _names(base)])
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                found.methods[item.name] = _function(module, node.name, item)
                _attribute_types(item, found.types)
                self._registrations(module, node.name, item)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found.types.setdefault(item.target.id, set()).update(_names(item.annotation))
        self.classes.setdefault(node.name, []).append(found)

    def _registrations(self, module: str, owner: str, node: ast.AST) -> None:
        for call in ast.walk(node):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Call)):
                continue
            inner = call.func
            if not (isinstance(inner.func, ast.Attribute) and inner.func.attr == "on" and inner.args):
                continue
            role = (
                inner.args[1].value if len(inner.args) > 1 and isinstance(inner.args[1], ast.Constant) else ""
            )
            if role != "upper" and call.args and isinstance(call.args[0], ast.Attribute):
                for model in _names(inner.args[0]):
                    self._waiting.append((module, owner, model, call.args[0].attr))

    # -- following -------------------------------------------------------------------------------------------

    @property
    def routes(self) -> Iterator[Function]:
        for classes in self.classes.values():
            for found in classes:
                yield from (method for method in found.methods.values() if method.route is not None)

    def named_by(self, start: Function, followed: tuple[str, ...] = FOLLOWED) -> dict[str, int]:
        """Everything that ``start`` and the functions below it in these modules name, and in how many steps."""
        seen: dict[int, Function] = {}
        edge: list[Function] = [start]
        names: dict[str, int] = {}
        for step in range(MOST_STEPS):
            following: list[Function] = []
            for function in edge:
                if id(function) in seen:
                    continue
                seen[id(function)] = function
                for name in function.names:
                    for told in (name, *self.tables.get((function.module, name), ())):
                        names.setdefault(told, step)
                following += [one for one in self._called(function) if f"{one.module}.".startswith(followed)]
            edge = following
        return names

    def _called(self, function: Function) -> Iterator[Function]:
        for call in function.calls:
            if len(call) == 1:
                yield from self._plain(function.module, call[0])
            elif len(call) == 2:
                yield from self._methods([function.owner], call[1], function.module)
            else:
                types = {
                    name
                    for one in self.classes.get(function.owner, ())
                    if one.module == function.module
                    for name in one.types.get(call[1], ())
                }
                yield from self._methods(types, call[2], function.module)

    def _plain(self, module: str, name: str) -> Iterator[Function]:
        home = self.imports[module].get(name, module)
        if (home, name) in self.functions:
            yield self.functions[home, name]

    def _methods(self, types: Iterable[str], name: str, module: str) -> Iterator[Function]:
        for type_name in types:
            home = self.imports[module].get(type_name, module)
            known = [one for one in self.classes.get(type_name, ()) if one.module == home]
            for one in known:
                if one.protocol:
                    yield from self._alike(one, name)
                elif name in one.methods:
                    yield one.methods[name]
                else:
                    yield from self._methods(one.bases, name, one.module)

    def _alike(self, wanted: Class, name: str) -> Iterator[Function]:
        """The method in every class that has all methods of the Protocol, with its parameters."""
        needed = dict(wanted.methods)
        for base in wanted.bases:
            for one in self.classes.get(base, ()):
                needed |= one.methods
        for classes in self.classes.values():
            for one in classes:
                if one.protocol or name not in one.methods:
                    continue
                if all(
                    method in one.methods and wish.parameters <= one.methods[method].parameters
                    for method, wish in needed.items()
                ):
                    yield one.methods[name]


def _function(module: str, owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    arguments = [*node.args.args, *node.args.kwonlyargs]
    found = Function(module, owner, node.name, parameters=frozenset(one.arg for one in arguments))
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "route":
            words = [arg.value for arg in decorator.args[:2] if isinstance(arg, ast.Constant)]
            if len(words) == 2:
                found.route = (str(words[0]), str(words[1]))
    for statement in node.body:
        found.names |= set(_names(statement))
        for part in ast.walk(statement):
            if isinstance(part, ast.Attribute | ast.Name):
                chain = _chain(part)
                if chain:
                    found.calls.add(chain)
            if isinstance(part, ast.Call) and getattr(part.func, "id", "") in BY_FIELD:
                model = part.func.id  # type: ignore[attr-defined]
                found.names |= {f"{model}.{word.arg}" for word in part.keywords if word.arg}
    return found


def _chain(node: ast.expr) -> tuple[str, ...] | None:
    """``self.x.m``, ``self.m`` or ``f`` as words; other shapes tell nothing."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    words.append(node.id)
    words.reverse()
    if words[0] == "self":
        return tuple(words[:3]) if len(words) in (2, 3) else None
    return (words[0],) if len(words) == 1 else None


def _names(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
            yield part.value  # a forward reference in an annotation


def _attribute_types(node: ast.FunctionDef | ast.AsyncFunctionDef, types: dict[str, set[str]]) -> None:
    """``self.x = parameter``, ``self.x = Class(...)`` and ``self.x: Type``."""
    arguments = node.args
    annotated = {
        one.arg: set(_names(one.annotation))
        for one in [*arguments.args, *arguments.kwonlyargs]
        if one.annotation is not None
    }
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign) and _is_own(part.target):
            types.setdefault(part.target.attr, set()).update(_names(part.annotation))
        elif isinstance(part, ast.Assign):
            for target, value in _pairs(part):
                if not _is_own(target):
                    continue
                if isinstance(value, ast.Name) and value.id in annotated:
                    types.setdefault(target.attr, set()).update(annotated[value.id])
                elif isinstance(value, ast.Call):
                    types.setdefault(target.attr, set()).update(_names(value.func))


def _pairs(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def _is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def api_calls(source: Source | None = None) -> dict[str, list[str]]:
    """``METHOD /path`` by what the call names: models, and ``DeviceControl.field``."""
    source = source or Source()
    found: dict[str, dict[str, int]] = {}
    for handler in source.routes:
        for name, steps in source.named_by(handler).items():
            found.setdefault(name, {})[" ".join(handler.route or ())] = steps
    return {
        name: sorted(
            (call for call, steps in calls.items() if steps <= min(calls.values()) + SLACK),
            key=lambda call: call.split()[::-1],
        )
        for name, calls in found.items()
    }


def events_of(source: Source | None = None) -> dict[str, list[str]]:
    """Live events by the model whose arrival publishes them."""
    source = source or Source()
    kinds = {one.name for classes in source.classes.values() for one in classes if one.bases == ["Event"]}
    found: dict[str, set[str]] = {}
    for model, handler in source.handlers:
        named = source.named_by(handler, ("gateway.",))
        told = {name: steps for name, steps in named.items() if name in kinds}
        near = min(told.values(), default=0) + EVENT_SLACK
        words = [
            re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower() for kind, steps in told.items() if steps <= near
        ]
        found.setdefault(model, set()).update(words)
    return {model: sorted(names) for model, names in found.items()}
