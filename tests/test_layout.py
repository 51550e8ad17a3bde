"""The architecture as the folders show it: which module may import which, and what is private.

Imports go down the layers below, never up and never round in a circle. A leading underscore on a
module means "not imported from outside its folder", on a name "not used outside its module"; the
one thing more that modules of one folder may do is to read private attributes of each other's
objects, such as what a class declares for its neighbours.
"""

import ast
import graphlib
import re
from pathlib import Path
from typing import NamedTuple

import grimp
import pytest

import skclipsvd

PACKAGE = Path(skclipsvd.__file__).parent
ROOT = Path(__file__).parents[1]

# From top to bottom. Modules of one layer do not import each other.
LAYERS = [
    {"__main__", "demo"},
    {"commands"},
    {"experiments"},
    {"__init__"},
    {"inspection", "persistence", "predictions", "encoder", "open_set"},
    {"classifiers"},
    {"training"},
    {"adaptation"},
    {"clip", "datasets"},
    {"images", "paths"},
    {"caching", "linear", "model_selection"},
    {"frames", "console", "constraints"},
    {"exceptions", "forks", "image_files", "labels", "progress", "validation", "_version"},
]
# What an import inside a function may wait for: extras, and modules of one operating system. An
# import that waits for anything else hides a circle, or makes the first call slow by surprise.
OPTIONAL = {
    "matplotlib", "pandas", "transformers", "dask", "onnx", "onnxruntime", "huggingface_hub",
    "fcntl", "msvcrt",
}  # fmt: skip


OF_NAMEDTUPLES = {"_asdict", "_fields", "_replace"}
# Private by their look alone: documented for everybody (namedtuple), or of torch.nn.Module.
OF_OTHERS = {"_replace", "_parameters"}


def layer_of(module):
    """The layer of a module by its dotted name: 0 is the top."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return next(level for level, names in enumerate(LAYERS) if name in names)


@pytest.fixture(scope="module")
def imports():
    """(importer, imported) for every import inside the package, those for types included."""
    return _edges(exclude_type_checking_imports=False)


def _edges(**options):
    graph = grimp.build_graph("skclipsvd", cache_dir=None, **options)
    return sorted((m, i) for m in graph.modules for i in graph.find_modules_directly_imported_by(m))


def test_every_module_has_its_layer():
    there = {p.stem for p in PACKAGE.glob("*.py")}
    there |= {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    named = set().union(*LAYERS)
    assert there <= named, "add it to LAYERS and to docs/how_it_works.md"
    assert named <= there | {"__init__"}
    assert sum(map(len, LAYERS)) == len(named)


def test_imports_go_down(imports):
    def own(module):
        return module.split(".")[1:2]

    upwards = [
        f"{importer} imports {imported}"
        for importer, imported in imports
        if own(importer) != own(imported) and layer_of(importer) >= layer_of(imported)
    ]
    assert not upwards, "\n".join(upwards)


def test_nothing_imports_in_a_circle():
    """Between modules; an import that only a type checker sees is none."""
    below = {}
    for importer, imported in _edges(exclude_type_checking_imports=True):
        below.setdefault(importer, set()).add(imported)
    try:
        graphlib.TopologicalSorter(below).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_private_modules_stay_in_their_folders(imports):
    through = [
        f"{importer} imports {imported}"
        for importer, imported in imports
        if not _may_import(importer, imported)
    ]
    assert not through, "\n".join(through)


def _may_import(importer, imported):
    """Whether every private part of a dotted name belongs to a folder that holds the importer."""
    parts = imported.split(".")
    return all(
        f"{importer}.".startswith(".".join(parts[:i]) + ".")
        for i, part in enumerate(parts)
        if _private(part)
    )


def _private(name):
    """Whether a name is private; ``__init__`` and ``_repr_html_`` are others' protocols."""
    return name.startswith("_") and not name.endswith("_") and name not in OF_OTHERS


class Source(NamedTuple):
    """A Python file: its path in the project, its dotted name, and what is written in it."""

    path: str
    module: str
    tree: ast.Module

    @classmethod
    def read(cls, path):
        path = path.relative_to(ROOT)
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        return cls(str(path), module, ast.parse((ROOT / path).read_text(encoding="utf-8")))

    def absolute(self, node):
        """The module that ``from ... import`` names, without its dots."""
        if not node.level:
            return node.module or ""
        is_folder = self.path.endswith("__init__.py")
        here = self.module.split(".")
        base = here[: len(here) - node.level + is_folder]
        return ".".join([*base, *filter(None, [node.module])])


def sources(folder):
    found = [p for p in sorted((ROOT / folder).rglob("*.py")) if "fixtures" not in p.parts]
    assert found
    return [Source.read(path) for path in found]


@pytest.fixture(scope="module")
def private_names():
    """Which private names the package's modules define: functions, attributes, constants."""
    return {source.module: _defined(source.tree) for source in sources("skclipsvd")}


def _defined(tree):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if _private(name)}


@pytest.mark.parametrize("folder", ["skclipsvd", "tools", "examples", "tests", "benchmarks"])
def test_private_names_stay_in_their_modules(folder, private_names):
    reached = []
    for source in sources(folder):
        reached += [
            f"{source.path}:{line}: {what}" for line, what in _reaches(source, private_names)
        ]
    assert not reached, "\n".join(reached)


def _reaches(source, private_names):
    """Where a file uses a private name of another module of the package."""
    folder = Path(source.path).parent
    far = (names for module, names in private_names.items() if folder != _folder(module))
    of_others = set().union(*far) - _defined(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, name) for name in _imported_privately(source, node))
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("skclipsvd")]
            yield from ((node.lineno, n) for n in names if not _may_import(source.module, n))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"skclipsvd(\.\w+)+", str(node.value)):
            if not _may_import(source.module, node.value):  # patched by its name
                yield node.lineno, node.value
        elif _attribute(node)[1] in of_others and not _is_own(_attribute(node)[0]):
            yield node.lineno, ast.unparse(node)


def test_private_names_of_other_libraries_are_explained(private_names):
    """A comment beside each says why there is no public way, so that somebody can look for one."""
    ours = set().union(*private_names.values()) | OF_NAMEDTUPLES
    unexplained = []
    for source in sources("skclipsvd"):
        lines = (ROOT / source.path).read_text(encoding="utf-8").splitlines()
        for node in ast.walk(source.tree):
            if not any(name not in ours for name in _private_of_others(source, node)):
                continue
            near = lines[max(node.lineno - 4, 0) : node.lineno]
            if not any("#" in line and "rivate" in line for line in near):
                unexplained.append(f"{source.path}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not unexplained, "\n".join(unexplained)


def _private_of_others(source, node):
    """The private names in an import from another library, or the one read from an object."""
    if isinstance(node, ast.ImportFrom):
        module = source.absolute(node)
        if module.split(".")[0] in ("skclipsvd", "__future__"):
            return []
        names = [*module.split("."), *(alias.name for alias in node.names)]
    else:
        names = [_attribute(node)[1]]
    return [name for name in names if isinstance(name, str) and _private(name)]


def _folder(module):
    return Path(*module.split(".")).parent


def _imported_privately(source, node):
    """The private names and modules in one ``from ... import``."""
    module = source.absolute(node)
    for alias in node.names if module.split(".")[0] == "skclipsvd" else ():
        name = f"{module}.{alias.name}"
        if _is_module(name):
            allowed = _may_import(source.module, name)
        else:
            allowed = _may_import(source.module, module) and not _private(alias.name)
        if not allowed:
            yield name


def _attribute(node):
    """The object and the name in ``x.name``, ``getattr(x, "name")`` and ``setattr``'s like."""
    if isinstance(node, ast.Attribute):
        return node.value, node.attr
    if isinstance(node, ast.Call) and len(node.args) > 1:
        function = getattr(node.func, "attr", getattr(node.func, "id", None))
        name = node.args[1]
        if function in ("getattr", "setattr", "hasattr", "delattr") and isinstance(
            name, ast.Constant
        ):
            return node.args[0], name.value
    return None, None


def _is_module(name):
    place = ROOT.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def _is_own(node):
    """``self``, ``cls`` and ``super()``: a subclass may use what it inherits."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("super", "type")
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def test_imports_wait_in_functions_for_optional_packages_alone():
    waiting = []
    for source in sources("skclipsvd"):
        functions = [n for n in ast.walk(source.tree) if isinstance(n, ast.FunctionDef)]
        for node in {inner for function in functions for inner in ast.walk(function)}:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [source.absolute(node)]
            else:
                continue
            if not {name.split(".")[0] for name in names} <= OPTIONAL:
                waiting.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
    assert not waiting, "\n".join(sorted(waiting))


def test_the_page_on_how_it_works_names_every_module():
    page = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = set()
    for row in rows:
        folder = ""
        for name in re.findall(r"`([\w./]+)`", row):
            folder = name.rpartition("/")[0] + "/" if "/" in name else folder
            named.add(name if "/" in name else folder + name)
    whole = {name for name in named if name.endswith("/")}
    there = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "_version.py")
    }
    outside = {name for name in there if not name.startswith(tuple(whole))}
    assert outside == named - whole
    assert all((PACKAGE / name).is_dir() for name in whole)
