"""Parameter lists that are written out twice agree."""

import inspect
import re

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier
from skclipsvd.experiments import CLIPSOClassifier

# What the two methods do not share: LoRA's own numbers and its matrices.
OWN_OF_LORA = {"rank", "alpha", "dropout"}
OTHER_DEFAULTS = {"matrices"}
OWN_OF_SO = {"density", "refresh"}


def parameters(estimator):
    found = dict(inspect.signature(estimator.__init__).parameters)
    del found["self"]
    return found


def test_the_trained_classifiers_differ_where_they_should():
    svd, lora = parameters(CLIPSVDClassifier), parameters(CLIPLoRAClassifier)
    assert lora.keys() - svd.keys() == OWN_OF_LORA
    assert svd.keys() - lora.keys() == set()
    assert [name for name in lora if name in svd] == list(svd)  # in one order
    assert {name for name in svd if svd[name] != lora[name]} == OTHER_DEFAULTS
    assert {p.kind for p in svd.values()} == {p.kind for p in lora.values()}


def test_so_takes_what_they_take_but_decay():
    svd, so = parameters(CLIPSVDClassifier), parameters(CLIPSOClassifier)
    assert so.keys() - svd.keys() == OWN_OF_SO
    assert [name for name in so if name in svd] == [name for name in svd if name != "weight_decay"]
    assert {name for name in so if name in svd and svd[name] != so[name]} == {"lr"}


def test_every_parameter_is_documented():
    for estimator in (CLIPSVDClassifier, CLIPLoRAClassifier, CLIPSOClassifier):
        documented = inspect.getdoc(estimator).partition("Attributes\n")[0]
        assert [n for n in parameters(estimator) if not re.search(rf"\b{n}\b", documented)] == []
