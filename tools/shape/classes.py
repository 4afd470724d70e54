"""The classes of a package: names that occur twice, base classes that only cut a file, stubs, and the request's state.

Rules:

1. A base class only cuts a file if it is never made itself, one class alone inherits from it, and it has code: what
   an interface declares (abstract methods, methods without a body of their own, and an ``__init__`` that sets its
   attributes) cuts nothing.
2. The request's classes are `Exchange`, its base classes, and every class that one of these keeps an instance of which
   it made itself (`self.body = RequestBody(...)`), and so on. What an exchange is handed, such as a connection, is not
   a part of it.
3. An attribute is a slot wherever it is declared: in ``__slots__``, with a type in the class, or by an assignment to
   ``self``. It is a mutable boolean if it holds True or False and is assigned anywhere but in its own ``__init__``.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tools.shape.source import Module, Modules

REQUEST = "Exchange"
"""The class that a request is."""
_SHARED = ("ClassVar", "Final")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Class:
    """One class and where it stands."""

    module: str
    node: ast.ClassDef

    @property
    def name(self) -> str:
        """Its own name, without its module."""
        return self.node.name

    @property
    def bases(self) -> list[str]:
        """The names of what it inherits from; of dotted ones the last part."""
        named = [base.value if isinstance(base, ast.Subscript) else base for base in self.node.bases]
        return [last for base in named if (last := _last(base))]

    @cached_property
    def methods(self) -> list[Function]:
        """Its methods."""
        return [node for node in self.node.body if isinstance(node, Function)]

    @cached_property
    def attributes(self) -> set[str]:
        """The names of what each instance holds."""
        return {name for name, _, _ in self.assigned} | set(_slots(self.node)) | set(_annotations(self.node))

    @cached_property
    def assigned(self) -> list[tuple[str, ast.expr | None, str]]:
        """Each assignment to an attribute of ``self``: the attribute, the value, the method."""
        return [(name, value, method.name) for method in self.methods for name, value in _to_self(method)]

    @cached_property
    def booleans(self) -> set[str]:
        """The attributes that are booleans: by their type, by a parameter's type, or by what they begin as."""
        typed = {name for name, annotation in _annotations(self.node).items() if _is_bool(annotation)}
        for method in self.methods:
            arguments = (*method.args.args, *method.args.kwonlyargs)
            parameters = {argument.arg for argument in arguments if _is_bool(argument.annotation)}
            for node in ast.walk(method):
                if isinstance(node, ast.AnnAssign) and _is_bool(node.annotation):
                    typed.add(_of_self(node.target))
            typed |= {
                name
                for name, value in _to_self(method)
                if (isinstance(value, ast.Constant) and isinstance(value.value, bool))
                or (isinstance(value, ast.Name) and value.id in parameters)
            }
        return typed


def classes(modules: Modules) -> list[Class]:
    """Every class, also those within functions and classes, in the order of the modules' names."""
    return [Class(name, node) for name in sorted(modules) for node in _class_nodes(modules[name])]


def _class_nodes(module: Module) -> Iterator[ast.ClassDef]:
    yield from (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))


def named_twice(found: Sequence[Class]) -> dict[str, list[str]]:
    """The names that more than one class has, private ones included, each with the modules that have it."""
    places = defaultdict(list)
    for each in found:
        places[each.name].append(each.module)
    return {name: modules for name, modules in sorted(places.items()) if len(modules) > 1}


def stubs(found: Sequence[Class]) -> list[str]:
    """The methods that do nothing but raise NotImplementedError, as ``Class.method``."""
    return [f"{each.name}.{method.name}" for each in found for method in each.methods if _raises_unwritten(method)]


def cutting(found: Sequence[Class], package: Modules) -> list[str]:
    """The base classes that only cut a file (rule 1), by name."""
    heirs = defaultdict(list)
    for each in found:
        for base in each.bases:
            heirs[base].append(each.name)
    made = {called for module in package.values() for called in _calls(module.tree)}
    return [
        each.name
        for each in found
        if len(heirs[each.name]) == 1 and each.name not in made and any(not _empty(method) for method in each.methods)
    ]


@dataclass(frozen=True)
class State:
    """What one of the request's objects holds, its base classes included."""

    name: str
    module: str
    slots: tuple[str, ...]
    mutable_booleans: tuple[str, ...]


def request_state(found: Sequence[Class]) -> list[State]:
    """The state of each of the request's objects (rule 2), `Exchange` first."""
    by_name = {each.name: each for each in reversed(found)}
    pending, objects = [REQUEST], dict[str, list[Class]]()
    while pending:
        name = pending.pop(0)
        if name in by_name and name not in objects:
            objects[name] = _family(by_name[name], by_name)
            pending += [made for each in objects[name] for made in _calls(each.node)]
    return [_state(family, found) for family in objects.values()]


def _family(each: Class, by_name: Mapping[str, Class]) -> list[Class]:
    """A class and all that it inherits from."""
    bases = [by_name[base] for base in each.bases if base in by_name]
    return [each, *(above for base in bases for above in _family(base, by_name))]


def _state(family: Sequence[Class], found: Sequence[Class]) -> State:
    written = {name for each in family for name, _, method in each.assigned if method != "__init__"}
    written |= {name for each in found for name in _written_to_others(each.node)}
    slots = {name for each in family for name in each.attributes}
    mutable = {name for each in family for name in each.booleans} & written
    return State(family[0].name, family[0].module, tuple(sorted(slots)), tuple(sorted(mutable)))


def _written_to_others(node: ast.AST) -> Iterator[str]:
    """The attributes that are assigned to below a node, of any object but ``self``."""
    for target in ast.walk(node):
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store) and not _of_self(target):
            yield target.attr


def _to_self(method: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Each assignment to an attribute of ``self`` below a node, with its value, which may be a part of a tuple."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(parts)
                yield from (
                    (_of_self(part), value) for part, value in zip(parts, values, strict=False) if _of_self(part)
                )
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and _of_self(node.target):
            yield _of_self(node.target), node.value


def _of_self(target: ast.expr) -> str:
    """The attribute's name where the target is ``self.name``; an empty text otherwise."""
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
        return target.attr
    return ""


def _slots(node: ast.ClassDef) -> list[str]:
    values = [
        entry.value
        for entry in node.body
        if isinstance(entry, ast.Assign) and [ast.unparse(target) for target in entry.targets] == ["__slots__"]
    ]
    named = [constant.value for value in values for constant in ast.walk(value) if isinstance(constant, ast.Constant)]
    return [name for name in named if isinstance(name, str)]


def _annotations(node: ast.ClassDef) -> dict[str, ast.expr]:
    """The attributes that the class declares with a type, without those that all instances share."""
    return {
        entry.target.id: entry.annotation
        for entry in node.body
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
        if not any(shared in ast.unparse(entry.annotation) for shared in _SHARED)
    }


def _is_bool(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "bool"


def _calls(tree: ast.AST) -> list[str]:
    """The names of what is called below a node; of dotted ones the last part."""
    called = [_last(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in called if name]


def _last(expression: ast.expr) -> str:
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _body(method: Function) -> list[ast.stmt]:
    """The statements without the docstring."""
    return method.body[1:] if ast.get_docstring(method) is not None else method.body


def _raises_unwritten(method: Function) -> bool:
    return [ast.unparse(node) for node in _body(method)] in (
        ["raise NotImplementedError"],
        ["raise NotImplementedError()"],
    )


def _empty(method: Function) -> bool:
    if method.name == "__init__" or any(_last(one) == "abstractmethod" for one in method.decorator_list):
        return True
    return _raises_unwritten(method) or [ast.unparse(node) for node in _body(method)] in ([], ["pass"], ["..."])
