"""Which members a class's page lists, and in which order the gallery is read."""

import importlib
import inspect
import re

# scikit-learn's own methods whose text stands by itself; the others are described in its guide.
_INHERITED = ("score", "fit_transform", "get_params", "set_params")

_MODULES = (
    "skclipsvd",
    "skclipsvd.model_selection",
    "skclipsvd.datasets",
    "skclipsvd.experiments",
    "skclipsvd.adaptation",
    "skclipsvd.inspection",
    "skclipsvd.exceptions",
)

_ORDER = (
    "plot_quick_start.py",
    "plot_own_photographs.py",
    "plot_grid_search.py",
    "plot_number_of_shots.py",
    "plot_new_classes.py",
    "plot_prompts.py",
    "plot_interpretation.py",
    "plot_calibration.py",
    "plot_deployment.py",
    "plot_dask.py",
)


def reading_order(filename):
    """Sort the gallery as a newcomer would read it; what is not listed comes last."""
    place = _ORDER.index(filename) if filename in _ORDER else len(_ORDER)
    return f"{place:02d} {filename}"


def _public_classes():
    for module in _MODULES:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            if inspect.isclass(getattr(loaded, name)):
                yield module, name


def _members(module, name):
    """List the public members that this package defines, then a few inherited ones."""
    cls = getattr(importlib.import_module(module), name)
    own, inherited = {}, {}
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        value = getattr(value, "__func__", value)  # class methods
        owner = getattr(getattr(value, "fget", value), "__module__", None) or ""
        if name.startswith("_") or not (callable(value) or isinstance(value, property)):
            continue
        if owner.startswith("skclipsvd"):
            own[name] = value
        elif name in _INHERITED:
            inherited[name] = value
    by_source = sorted(own, key=lambda name: (name != "fit", _line(own[name])))
    return [(n, own[n]) for n in by_source] + [(n, inherited[n]) for n in sorted(inherited)]


def _line(value):
    function = inspect.unwrap(getattr(value, "fget", value))
    return function.__module__, function.__code__.co_firstlineno


def _escape_shapes(app, what, name, obj, options, lines):
    """Keep reStructuredText from reading "shape (n_iter_,)" as a link."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"(?<=shape )\([^)]*\)", lambda m: m[0].replace("_,", "\\_,"), line)
        lines[i] = re.sub(r"(shape \([^)]*)_\)", r"\1\_)", lines[i])


def _unlink(app, what, name, obj, options, lines):
    """Leave the words of links to scikit-learn's guide, whose labels are not ours."""
    if (getattr(obj, "__module__", None) or "").startswith("sklearn"):
        lines[:] = [
            re.sub(r":(?:ref|term):`([^`<]*?)(?: *<[^>]*>)?`", r"\1", line) for line in lines
        ]


def setup(app):
    """Hand the members of all public classes to the templates; mend docstrings after numpydoc."""
    members = {f"{module}.{cls}": _members(module, cls) for module, cls in _public_classes()}
    app.config.autosummary_context = {
        "methods_of": {
            name: [n for n, value in own if callable(value)] for name, own in members.items()
        },
        "properties_of": {
            name: [n for n, value in own if not callable(value)] for name, own in members.items()
        },
    }
    app.connect("autodoc-process-docstring", _escape_shapes, priority=900)
    app.connect("autodoc-process-docstring", _unlink, priority=900)
    return {"parallel_read_safe": True}
