"""What ``import skclipsvd`` offers, and that it imports nothing before it is used."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import skclipsvd


@pytest.mark.parametrize("package", [skclipsvd, skclipsvd.experiments], ids=lambda p: p.__name__)
def test_every_name_is_there_and_imported_for_type_checkers_from_where_it_is(package):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {a.name: node.module for node in block.body if node.module for a in node.names}
    assert set(homes) == set(package.__all__) - {"__version__"}
    for name, module in homes.items():
        home = import_module(f"{package.__name__}.{module}")
        assert getattr(package, name) is getattr(home, name)
        assert name != module, "importing the module would put it in the name's place"
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", ["datasets", "experiments", "inspection", "model_selection"])
def test_folders_are_attributes(name):
    assert getattr(skclipsvd, name) is import_module(f"skclipsvd.{name}")


def test_a_misspelt_name():
    with pytest.raises(AttributeError, match="no attribute 'CLIPSVDClasifier'"):
        skclipsvd.CLIPSVDClasifier  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    code = "import skclipsvd, sys; print({'torch', 'sklearn', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
