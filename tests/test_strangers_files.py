"""An adapter file from a stranger, or from a damaged disk: it predicts as before, or it is refused.

Nothing in it is run, and it chooses nothing that is opened or downloaded. The mutations of the slow
tests are drawn from fixed seeds; `pytest -m slow` prints what became of them.
"""

import json
import random
import struct
from collections import Counter

import numpy as np
import pytest
from helpers.mutations import mutate_json, no_longer_than, peak_bytes
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier, load_adapter

KINDS = [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def fitted(request, small_model, photographs):
    settings = {}
    if request.param is not CLIPZeroShotClassifier:
        settings = dict(max_steps=2, lr=0.01, random_state=0, layers=range(3))
    return request.param(small_model, **settings).fit(*photographs)


@pytest.fixture(scope="module")
def adapter(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    fitted.save_adapter(path)
    return path


def contents(path):
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["skclipsvd"])
    del header["sha256"]
    return header, load_file(path)


def write(path, header, arrays):
    """Write as a stranger would, who leaves the checksum out."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, path, metadata={"skclipsvd": json.dumps(header)})
    return path


# --- one thing wrong at a time


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format=99), "format 99.*Update skclipsvd"),
        (lambda h: h.update(estimator="os.system"), "unknown estimator"),
        (lambda h: h["parameters"].update(nonsense={"value": 1}), "nonsense"),
        (lambda h: h["parameters"].update(batch_size={"value": -1}), "batch_size"),
        (lambda h: h["parameters"].update(templates={"range": [0, 10**15, 1]}), "a range of"),
        (lambda h: h["fitted"]["classes_"]["values"].append("third"), "one text feature per class"),
        (lambda h: h["fitted"]["classes_"]["values"].__setitem__(0, {"a": 1}), "is no label"),
        (lambda h: h["fitted"]["classes_"].update(values=["a", "a"]), "different labels"),
        (lambda h: h["fitted"]["classes_"].update(values=["abc", "abd"], dtype="<U2"), "of type"),
        (lambda h: h["fitted"]["classes_"].update(values=["1", "2"], dtype="<i8"), "of type"),
        (lambda h: h["fitted"]["classes_"].update(dtype="<U9999999"), "labels of type"),
        (lambda h: h["fitted"]["classes_"].update(values=[1.0, float("nan")]), "no label"),
        (lambda h: h["fitted"].update(logit_scale_="100"), "'100' is no finite number"),
        (lambda h: h["fitted"].update(logit_scale_=-1.0), "logit_scale_ must be positive"),
        (lambda h: h["fitted"].update(logit_scale_=float("inf")), "inf is no finite number"),
        (lambda h: h["fitted"].update(logit_bias_=[1]), r"\[1\] is no finite number"),
        (lambda h: h["fitted"].update(n_parameters_=2.5), "n_parameters_ must be a whole number"),
        (lambda h: h["fitted"].update(backbone_fingerprint_=3), "3 is no text"),
        (lambda h: h.pop("fitted"), "fitted"),
        (lambda h: h["parameters"].update(templates=nested(5000)), "damaged"),
    ],
)
def test_a_header_is_not_believed(adapter, tmp_path, small_model, change, message):
    header, arrays = contents(adapter)
    change(header)
    text = json_of(header)
    save_file(arrays, tmp_path / "b.safetensors", metadata={"skclipsvd": text})
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(tmp_path / "b.safetensors", small_model)
    assert "b.safetensors" in str(caught.value)


def nested(depth):
    """Deeper than Python's own writer goes; `json_of` puts it in."""
    return f"DEEP{depth}"


def json_of(header):
    text = json.dumps(header)
    if '"DEEP5000"' in text:
        text = text.replace('"DEEP5000"', '{"list": [' * 5000 + "]}" * 5000)
    return text


def zeros(arrays):
    arrays["text_features_"] = np.zeros_like(arrays["text_features_"])


def poisoned(arrays):
    arrays["text_features_"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (zeros, "unit length"),
        (poisoned, "not finite float32"),
        (lambda a: a.update(text_features_=a["text_features_"].astype("f8")), "not finite float32"),
        (lambda a: a.update(text_features_=a["text_features_"][0]), "one text feature per class"),
        (lambda a: a.update(more_=a["text_features_"]), "unknown attribute 'more_'"),
        # Where no array is left, old versions of safetensors say that this is no file of theirs.
        (lambda a: a.pop("text_features_"), "text_features_ missing|not a safetensors file"),
    ],
)
def test_arrays_are_not_believed(adapter, tmp_path, small_model, change, message):
    header, arrays = contents(adapter)
    change(arrays)
    with pytest.raises(ValueError, match=message):
        load_adapter(write(tmp_path / "b.safetensors", header, arrays), small_model)


def test_half_of_the_vectors_are_not_enough(adapter, fitted, tmp_path, small_model):
    if isinstance(fitted, CLIPZeroShotClassifier):
        return
    header, arrays = contents(adapter)
    state = sorted(name for name in arrays if ":" in name and "scale" not in name)
    rest = {name: array for name, array in arrays.items() if name not in state[::2]}
    with pytest.raises(ValueError, match=r"has \d+ numbers instead of \d+"):
        load_adapter(write(tmp_path / "b.safetensors", header, rest), small_model)


@pytest.mark.parametrize("scale", [[-1.0], [0.0], [np.nan], [np.inf], [1.0, 1.0]])
def test_a_scale_is_one_positive_number(adapter, fitted, tmp_path, small_model, scale):
    if not isinstance(fitted, CLIPLoRAClassifier):
        return
    header, arrays = contents(adapter)
    arrays["factors_:scale"] = np.array(scale, np.float32)
    with pytest.raises(ValueError, match=r"scale of factors_|not finite"):
        load_adapter(write(tmp_path / "b.safetensors", header, arrays), small_model)


def test_vectors_of_another_shape_are_refused_when_the_model_is_known(
    adapter, fitted, tmp_path, small_model, photographs
):
    if isinstance(fitted, CLIPZeroShotClassifier):
        return
    header, arrays = contents(adapter)
    name = next(name for name in sorted(arrays) if ":" in name and "scale" not in name)
    arrays[name] = arrays[name][None]
    clf = load_adapter(write(tmp_path / "b.safetensors", header, arrays), small_model)
    with pytest.raises(ValueError, match=r"have shape .* of another model"):
        clf.predict(photographs[0][:1])
    header, arrays = contents(adapter)
    arrays[f"{name}x".replace(".", ".9", 1)] = arrays.pop(name)
    clf = load_adapter(write(tmp_path / "b.safetensors", header, arrays), small_model)
    with pytest.raises(ValueError, match=r"which model_name=.* does not have"):
        clf.predict(photographs[0][:1])


def test_text_features_of_another_model_are_refused(adapter, tmp_path, small_model, photographs):
    header, arrays = contents(adapter)
    arrays["text_features_"] = np.eye(2, 7, dtype=np.float32)
    clf = load_adapter(write(tmp_path / "b.safetensors", header, arrays), small_model)
    with pytest.raises(ValueError, match="the class texts have 7 features, the images 32"):
        clf.predict(photographs[0][:1])


# --- the backbone that a file names


@pytest.mark.parametrize(
    ("model_name", "pretrained", "said"),
    [
        ("local-dir:/elsewhere", None, "model_name='local-dir:/elsewhere'"),
        ("hf-hub:stranger/model", "openai", "model_name='hf-hub:stranger/model'"),
        ("/elsewhere/model", None, "model_name='/elsewhere/model'"),
        ("no-such-model", None, "model_name='no-such-model'"),
        ("ViT-B-16", "/elsewhere/weights.pt", "pretrained='/elsewhere/weights.pt'"),
        ("ViT-B-16", "webli", "pretrained='webli'"),  # a tag, but of other models
        ("tiny", "../weights.pt", "pretrained='../weights.pt'"),
        ("hf-hub:a/b", "c.pt", "model_name='hf-hub:a/b', pretrained='c.pt'"),
    ],
)
def test_a_file_chooses_nothing_that_is_opened(
    adapter, tmp_path, monkeypatch, model_name, pretrained, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "webli").write_bytes(b"opened by a tag of another model")
    header, arrays = contents(adapter)
    header["parameters"] |= {
        "model_name": {"value": model_name}, "pretrained": {"value": pretrained}
    }  # fmt: skip
    path = write(tmp_path / "b.safetensors", header, arrays)
    with pytest.raises(ValueError, match="a file is not allowed to choose") as caught:
        load_adapter(path)
    assert str(caught.value).endswith(f"load_adapter({str(path)!r}, {said}).")


def test_a_file_does_not_say_where_a_classifier_runs_and_writes(adapter, tmp_path, small_model):
    header, arrays = contents(adapter)
    chosen = dict(device="cuda:7", n_jobs=500, verbose=2, checkpoint_dir=str(tmp_path / "chosen"))
    known = {name for name in chosen if hasattr(load_adapter(adapter, small_model), name)}
    header["parameters"] |= {name: {"value": chosen[name]} for name in known}
    clf = load_adapter(write(tmp_path / "b.safetensors", header, arrays), small_model)
    assert {name: getattr(clf, name) for name in known} == {
        name: getattr(type(clf)(), name) for name in known
    }


@pytest.mark.parametrize(
    ("model_name", "pretrained"),
    [("tiny", "openai"), ("tiny", None), ("ViT-B-16", "openai"), ("ViT-B/16", None)],
)
def test_what_is_published_a_file_may_name(adapter, tmp_path, model_name, pretrained):
    header, arrays = contents(adapter)
    header["parameters"] |= {
        "model_name": {"value": model_name}, "pretrained": {"value": pretrained}
    }  # fmt: skip
    clf = load_adapter(write(tmp_path / "b.safetensors", header, arrays))
    assert (clf.model_name, clf.pretrained) == (model_name, pretrained)


def test_the_caller_names_the_backbone(adapter, fitted, small_model, photographs, tmp_path):
    clf = load_adapter(adapter, model_name=small_model)
    expected = fitted.predict_proba(photographs[0][:3])
    np.testing.assert_array_equal(clf.predict_proba(photographs[0][:3]), expected)
    header, arrays = contents(adapter)
    header["parameters"] |= {"model_name": {"value": "tiny"}, "pretrained": {"value": "a.pt"}}
    clf = load_adapter(write(tmp_path / "b.safetensors", header, arrays), pretrained="b.pt")
    assert (clf.model_name, clf.pretrained) == ("tiny", "b.pt")
    other = load_adapter(adapter, "tiny")
    with pytest.raises(ValueError, match="not the weights that this classifier was fitted on"):
        other.predict(photographs[0][:1])


def test_every_bit_counts(adapter, tmp_path, small_model):
    """One bit of a float, far from any sign or exponent."""
    content = bytearray(adapter.read_bytes())
    content[-4] ^= 1
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="its checksum has changed since it was written"):
        load_adapter(tmp_path / "b.safetensors", small_model)


# --- hundreds of mutations


@pytest.fixture
def trace(tmp_path):
    """A file that a payload would write, and payloads that would."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists(), "a payload was run"


class Fuzz:
    """Loads files, predicts, and counts what became of them."""

    def __init__(self, fitted, small_model, images):
        self.small_model, self.images = small_model, images
        self.expected = fitted.predict_proba(images)
        self.counts = Counter()
        self.peak = peak_bytes()

    def __call__(self, path):
        with no_longer_than(60):
            try:
                clf = load_adapter(path, self.small_model, "openai")
                answer = clf.predict_proba(self.images)
            except ValueError as error:
                said = str(error)
                self.counts["refused"] += 1
            else:
                said = None
        if said is not None:
            assert 10 < len(said) < 2000, said
            return
        assert np.isfinite(answer).all()
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)
        same = np.array_equal(answer, self.expected)
        self.counts["the same answers" if same else "other answers"] += 1

    def done(self, what, record_property):
        assert peak_bytes() - self.peak < 2**30
        for outcome, count in self.counts.items():
            record_property(f"mutations of {what}: {outcome}", count)
        assert self.counts.total() >= 200


@pytest.fixture
def fuzz(fitted, small_model, photographs):
    return Fuzz(fitted, small_model, photographs[0][:2])


@pytest.mark.slow
def test_two_hundred_mutated_headers(adapter, tmp_path, fuzz, trace, record_property):
    rng = random.Random(0)
    for _ in range(200):
        header, arrays = contents(adapter)
        mutate_json(header, rng, trace)
        fuzz(write(tmp_path / "b.safetensors", header, arrays))
    fuzz.done("adapters' headers", record_property)


def mutate_arrays(arrays, rng):
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    flat = array.reshape(-1).copy()
    what = rng.randrange(12)
    if what == 0:
        del arrays[name]
    elif what == 1:
        arrays[rng.choice([f"{name}x", "", f"{name}:{name}", "more_", f"{name}/c"])] = array
    elif what == 2:
        other = rng.choice(sorted(arrays))
        arrays[other] = arrays.pop(name)
    elif what == 3:
        arrays[name] = array.astype(rng.choice(["f8", "f2", "i8", "u1", "?"]))
    elif what == 4:
        arrays[name] = rng.choice([flat, array[None], array[..., None], array[:0], array.T])
    elif what == 5:
        arrays[name] = np.resize(array, rng.choice([(1,), (3, 5), (len(flat) + 1,), (10**6,)]))
    elif what == 6:
        arrays[name] = flat[: len(flat) // 2]
    elif what == 7:
        arrays[name] = np.zeros_like(array)
    else:
        numbers = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 0.0, -1.0]
        flat[rng.randrange(len(flat))] = rng.choice(numbers)
        arrays[name] = flat.reshape(array.shape)


def raw(rng, content):
    """Change what the safetensors header says of lengths, types and places."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    entry = header[name]
    what = rng.randrange(6)
    if what == 0:
        entry["shape"] = rng.choice([[2**40], [-1], [2**63, 2], [1] * 200, [0], ["a"], None])
    elif what == 1:
        entry["data_offsets"] = rng.choice([[0, 2**50], [8, 4], [-4, 0], [0], [0, 4, 8], "x"])
    elif what == 2:
        entry["dtype"] = rng.choice(["BF16", "F8_E4M3", "I64", "object", "F4", 7])
    elif what == 3:
        header["__metadata__"] = rng.choice([{}, None, [], {"skclipsvd": 3}, {"skclipsvd": "["}])
    elif what == 4:
        header[name + "2"] = entry
    else:
        length_said = rng.choice([0, 1, length - 1, length + 1, 2**33, 2**63])
        return struct.pack("<Q", length_said) + content[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@pytest.mark.slow
def test_two_hundred_mutated_tensors(adapter, tmp_path, fuzz, record_property):
    rng = random.Random(1)
    path = tmp_path / "b.safetensors"
    for number in range(200):
        header, arrays = contents(adapter)
        if number % 4:
            mutate_arrays(arrays, rng)
            write(path, header, arrays)
        else:
            path.write_bytes(raw(rng, adapter.read_bytes()))
        fuzz(path)
    fuzz.done("adapters' arrays", record_property)


@pytest.mark.slow
def test_two_hundred_bit_flips_change_nothing_in_silence(adapter, tmp_path, fuzz, record_property):
    rng = random.Random(2)
    whole = adapter.read_bytes()
    path = tmp_path / "b.safetensors"
    (length,) = struct.unpack("<Q", whole[:8])
    for number in range(200):
        content = bytearray(whole)
        # half of them among header and lengths, which are the smaller part of the file
        content[rng.randrange(8 + length if number % 2 else len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        fuzz(path)
    fuzz.done("adapters' bits", record_property)
    assert not fuzz.counts["other answers"]
