"""What everybody may call says what it takes, what it returns, and how it is used.

numpydoc's own checks, on everything that the reference lists, with its public methods.
"""

import inspect
import re
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest
from numpydoc.validate import validate

PAGE = Path(__file__).parents[1] / "docs" / "api.rst"
# numpydoc's codes of what is no habit here: a long description or a "See Also" everywhere, no name
# for what is returned.
NO_HABIT = {"ES01", "RT02", "SA01"}


def listed():
    """The names on the page, with their modules."""
    module = "skclipsvd"
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.fullmatch(r"   (\w+)", line):
            yield module, found[1]


def documented():
    """The dotted name of all that is looked at, and the object itself."""
    for module, name in listed():
        thing = getattr(import_module(module), name)
        yield f"{module}.{name}", thing
        if inspect.isclass(thing):
            for member in public_members(thing):
                yield f"{module}.{name}.{member}", inspect.getattr_static(thing, member)


def public_members(kind):
    """Methods and properties of our own; an override keeps what its base promises."""
    for member in dir(kind):
        having = [base for base in kind.__mro__ if member in vars(base)]
        ours = [base for base in having if base.__module__.startswith("skclipsvd")]
        value = vars(having[0])[member]
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        is_shown = inspect.isfunction(value) or isinstance(value, property)
        if is_shown and not member.startswith("_") and having[0] in ours and len(ours) == 1:
            yield member


def excused(name, thing):
    """What this one need not have beside."""
    if inspect.isclass(thing) and issubclass(thing, Warning):
        return {"EX01"}
    if isinstance(thing, property) or inspect.isabstract(thing):
        return {"EX01"}
    if is_dataclass(thing):
        return {"PR01"}  # its fields are its attributes, and documented as such
    # The building blocks' classes show how they are used; a method alone shows little.
    return {"EX01"} if re.match(r"skclipsvd\.adaptation\.\w+\.", name) else set()


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*x, id=x[0]) for x in documented()])
def test_a_docstring_has_what_numpydoc_asks_for(name, thing):
    allowed = NO_HABIT | excused(name, thing)
    found = [f"{code}: {text}" for code, text in validate(name)["errors"] if code not in allowed]
    assert not found


def test_all_that_is_offered_is_looked_at():
    names = {name for name, _ in documented()}
    assert {f"skclipsvd.{name}" for name in import_module("skclipsvd").__all__} - names == {
        "skclipsvd.__version__"
    }
    for method in ("fit", "predict", "predict_proba", "decision_function", "transform"):
        assert f"skclipsvd.CLIPSVDClassifier.{method}" in names
    assert "skclipsvd.model_selection.FewShotSplit.get_n_splits" in names
    assert "skclipsvd.inspection.SpectrumDisplay.from_estimator" in names
    assert "skclipsvd.adaptation.LowRankAdaptation.start" in names
