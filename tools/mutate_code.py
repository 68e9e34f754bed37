"""Makes one small error at a time in the code of a module; for tools/mutate.py."""

import ast
import difflib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst import metadata
from mutmut.mutation import mutators

ROOT = Path(__file__).parents[1]

# What is called with a message.
_SAYING = {"InputError", "RuntimeError", "ValueError", "say", "warn", "print", "error"}
# Arguments that change nothing but what happens after a mistake, or on other systems.
_GUARDS = {"strict", "encoding", "stacklevel"}


@dataclass(frozen=True)
class Mutant:
    """One error.

    Attributes:
        module: of the package.
        file: path below the repository.
        line: number of its first line.
        function: lines of the innermost function around it; None: it is run when the file is
            imported.
        source: the whole file with the error.
        diff: the lines that differ, beginning with "-" or "+".
    """

    module: str
    file: str
    line: int
    function: range | None
    source: str
    diff: tuple[str, ...]

    @property
    def key(self) -> str:
        """What tells this mutant of this version of the file from all others."""
        return hashlib.sha256(f"{self.file}\n{self.source}".encode()).hexdigest()[:16]


class _Places(cst.CSTVisitor):
    """Finds the nodes that can be changed, `found`, and the lines of functions."""

    METADATA_DEPENDENCIES = (metadata.PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []
        self.functions: list[range] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Note a node's mutants; pass by what does not count."""
        if _does_not_count(node):
            return False
        place = self.get_metadata(metadata.PositionProvider, node, None)
        if place is None:
            return True
        if isinstance(node, cst.FunctionDef):
            self.functions.append(range(place.start.line, place.end.line + 1))
        for kind, operator in mutators.mutation_operators:
            if isinstance(node, kind):
                mutated = list(operator(node))
                if operator is mutators.operator_string:
                    mutated = mutated[:1]  # the others are the same string in capitals
                self.found += [
                    (place.start.line, node, new) for new in mutated if not _only_guards(node, new)
                ]
        return True


def _does_not_count(node: cst.CSTNode) -> bool:
    """Tell whether no test should notice what is changed in a node."""
    match node:
        case cst.Annotation() | cst.Decorator() | cst.Raise() | cst.FormattedString():
            return True
        case cst.Import() | cst.ImportFrom():
            return True
        case cst.If(test=cst.Name(value="TYPE_CHECKING")):
            return True
        case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
            return True  # a docstring
        case cst.SimpleString(value=text):
            return " " in text  # prose
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__all__"))]):
            return True
        case cst.Assign(value=cst.Subscript(value=cst.Name(value=name))):
            return name in ("tuple", "list", "dict", "Mapping", "Callable")  # an alias of a type
        case cst.Call(func=cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name))):
            return name in _SAYING
        case cst.Arg(keyword=cst.Name(value=name)):
            return name in _GUARDS
    return False


def _only_guards(node: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Tell whether a call has changed in an argument that is a guard alone."""
    if not isinstance(node, cst.Call) or not isinstance(new, cst.Call):
        return False
    kept = [arg for arg in node.args if arg in new.args]
    missing = [arg for arg in node.args if arg not in kept]
    return bool(missing) and all(arg.keyword and arg.keyword.value in _GUARDS for arg in missing)


def mutants_of(module: str, seed: int, root: Path = ROOT) -> Iterator[Mutant]:
    """Draw mutants of a module, each of another line, without end but that of the lines.

    Args:
        module: a file or folder of the package.
        seed: of the order of the lines, and of the mutant of each.
        root: of the repository.
    """
    package = root / "resnet_keras"
    files = sorted((package / module).rglob("*.py")) or [package / f"{module}.py"]
    rng = random.Random(f"{seed} {module}")
    lines: dict[tuple[str, int], list] = {}
    for file in files:
        wrapper, places = metadata.MetadataWrapper(cst.parse_module(file.read_text())), _Places()
        wrapper.visit(places)
        name = str(file.relative_to(root))
        for line, node, new in places.found:
            around = [function for function in places.functions if line in function]
            function = min(around, key=len, default=None)
            lines.setdefault((name, line), []).append((wrapper.module, node, new, function))
    order = sorted(lines)
    rng.shuffle(order)
    for name, line in order:
        tree, node, new, function = rng.choice(lines[name, line])
        source = tree.deep_replace(node, new).code
        changed = _difference(tree.code, source)
        if changed and _compiles(source):
            yield Mutant(module, name, line, function, source, changed)


def _difference(before: str, after: str) -> tuple[str, ...]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return tuple(line for line in list(lines)[2:] if not line.startswith("@@"))


def _compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True
