"""A classifier on the hub: what is written there, and that nothing but the adapter is believed.

The hub is a real HTTP server on this machine, which huggingface_hub's own client talks to.
"""

import json
import pickle
import shutil

import numpy as np
import pytest
import yaml
from helpers.mirror import Mirror, closed_port, commit_of, fresh_sessions, online
from huggingface_hub import constants, hf_api
from safetensors.numpy import load, save
from sklearn.exceptions import NotFittedError

from skclipsvd import (
    CLIPEncoder,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    clear_caches,
    load_adapter,
    push_to_hub,
)

# The client's own word to its HTTP library, where it uploads without xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
TOKEN = "hf_of_the_lab"


@pytest.fixture
def reach(monkeypatch, tmp_path):
    """Point this process to a hub, with an empty cache and a token."""

    def point(mirror_or_url, token=TOKEN):
        url = getattr(mirror_or_url, "url", mirror_or_url)
        online(monkeypatch, url, tmp_path / "cache")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        # The lowest version of the client has cards checked by the hub that it knew when imported.
        monkeypatch.setattr(hf_api, "ENDPOINT", url, raising=False)
        # The mirror does not speak xet; the lowest version of the client does not either.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)

    yield point
    fresh_sessions()


@pytest.fixture
def hub(reach):
    with Mirror(writers={TOKEN: "lab"}) as mirror:
        reach(mirror)
        yield mirror


@pytest.fixture(scope="module")
def clf(digits):
    paths, labels = digits[0][:60], digits[1][:60]
    return CLIPSVDClassifier("tiny", lr=0.02, max_steps=3, augment=False, random_state=0).fit(
        paths, labels
    )


def files_on(hub, name="lab/digits"):
    return hub.repositories[name]["main"]


def card_on(hub, name="lab/digits"):
    _, header, text = files_on(hub, name)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(header), text


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier])
def test_what_was_pushed_predicts_the_same_elsewhere(kind, hub, digits):
    clf = kind("tiny")
    if kind is not CLIPZeroShotClassifier:
        clf.set_params(lr=0.02, max_steps=3, augment=False, random_state=0)
    clf.fit(digits[0][:60], digits[1][:60])
    url = push_to_hub(clf, "lab/digits")
    assert url == f"{hub.url}/lab/digits"
    assert set(files_on(hub)) == {"adapter.safetensors", "README.md"}
    assert not hub.private
    same = load_adapter("hf-hub:lab/digits")
    assert type(same) is kind
    np.testing.assert_array_equal(
        same.predict_proba(digits[0][60:70]), clf.predict_proba(digits[0][60:70])
    )


def test_a_file_that_the_hub_takes_as_small(hub, clf, monkeypatch):
    monkeypatch.setattr(hub, "mode", lambda file: "regular")
    push_to_hub(clf, "lab/digits")
    assert load_adapter("hf-hub:lab/digits").classes_.tolist() == clf.classes_.tolist()


def test_the_card_says_what_was_fitted(hub, clf):
    push_to_hub(clf, "lab/digits", scores={"accuracy on 300 test images": 0.93456, "by": "me"})
    header, text = card_on(hub)
    assert header["library_name"] == "skclipsvd"
    assert header["pipeline_tag"] == "image-classification"
    assert "base_model" not in header  # "tiny" has no repository
    tuned, of = f"{clf.n_parameters_tuned_:,}", f"{clf.n_parameters_:,}"
    for row in (
        "| model | tiny |",
        f"| fingerprint of the weights | {clf.backbone_fingerprint_} |",
        "| image size | 32 x 32 pixels |",
        "| estimator | CLIPSVDClassifier |",
        f"| parameters tuned | {tuned} of {of} |",
        "| steps | 3 |",
        "| learning rate | 0.02 |",
        "| accuracy on 300 test images | 0.9346 |",
        "| by | me |",
        "| seven | a photo of a seven. |",
    ):
        assert row in text.splitlines(), row
    assert text.count("a photo of a ") == 10
    assert hub.messages == ["CLIPSVDClassifier of 10 classes, by skclipsvd 0.1.0"]


def test_a_strength_is_on_the_card(hub, digits):
    clf = CLIPSVDClassifier("tiny", max_steps=2, augment=False, random_state=0)
    clf = clf.fit(digits[0][:20], digits[1][:20])
    push_to_hub(clf, "lab/digits")
    assert "| strength |" not in card_on(hub)[1]
    push_to_hub(clf.with_strength(0.25), "lab/digits")
    row = "| strength | 0.25, where 0 is the frozen model and 1 the fit |"
    assert row in card_on(hub)[1]


def test_a_head_is_on_the_card(hub, digits):
    clf = CLIPSVDClassifier("tiny", max_steps=2, augment=False, head="logistic", random_state=0)
    push_to_hub(clf.fit(digits[0][:60], digits[1][:60]), "lab/digits")
    share = f"{clf.head_weight_:.0%}"
    row = f"| head | a logistic regression on the embeddings, {share} of the score |"
    assert row in card_on(hub)[1].splitlines()


def test_the_code_on_the_card_runs(hub, clf, digits, monkeypatch, tmp_path, capsys):
    push_to_hub(clf, "lab/digits")
    code = card_on(hub)[1].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits[0][3], tmp_path / "photo.jpg")
    exec(code, {})
    assert str(clf.predict(digits[0][3:4])) in capsys.readouterr().out


def test_what_labels_say_is_text(hub, clf):
    names = {"a|b": "x | y", "<script>c": "[z](http://evil)", "d\ne": "```\n# f"}
    push_to_hub(clf.with_classes(names), "lab/digits")
    _, text = card_on(hub)
    rows = text.partition("## Classes\n\n")[2].partition("\n\n")[0].splitlines()
    assert rows == [
        "| label | what CLIP reads |",
        "| --- | --- |",
        r"| &lt;script&gt;c | a photo of a \[z\](http://evil). |",
        r"| a\|b | a photo of a x \| y. |",
        r"| d e | a photo of a \`\`\` \# f. |",
    ]


def test_a_backbone_that_is_no_published_one(hub, small_model, photographs):
    """No path of the author's machine is on the card, and what a reader has to do is."""
    clf = CLIPZeroShotClassifier(small_model).fit(*photographs)
    push_to_hub(clf, "lab/kinds")
    _, text = card_on(hub, "lab/kinds")
    assert small_model.removeprefix("local-dir:") not in text
    assert 'load_adapter("hf-hub:lab/kinds", model_name="local-dir:FOLDER")' in text
    with pytest.raises(ValueError, match=r"load_adapter\('hf-hub:lab/kinds', model_name="):
        load_adapter("hf-hub:lab/kinds")
    assert load_adapter("hf-hub:lab/kinds", small_model).classes_.tolist() == ["flower", "temple"]


@pytest.mark.parametrize(
    ("model_name", "pretrained", "base", "asked"),
    [
        ("ViT-B/16", "openai", "timm/vit_base_patch16_clip_224.openai", ")"),
        ("hf-hub:lab/base@v1", "openai", "lab/base", ', model_name="hf-hub:lab/base@v1")'),
        ("ViT-B-16", "openai:/home/me/w.pt", None, ', pretrained="FILE")'),
    ],
)
def test_the_backbones_repository_is_on_the_card(hub, clf, model_name, pretrained, base, asked):
    """No backbone is loaded for it."""
    other = clf.with_classes(["one", "two"])
    push_to_hub(other.set_params(model_name=model_name, pretrained=pretrained), "lab/digits")
    header, text = card_on(hub)
    assert header.get("base_model") == base
    assert f'load_adapter("hf-hub:lab/digits"{asked}\n' in text
    assert "/home" not in text


def test_a_second_push_replaces_the_first(hub, clf):
    push_to_hub(clf, "lab/digits", private=True)
    assert hub.private == {"lab/digits"}
    first = dict(files_on(hub))
    files_on(hub)["notes.txt"] = b"mine"
    push_to_hub(clf.with_classes(["one", "two"]), "lab/digits")
    assert files_on(hub)["notes.txt"] == b"mine"
    for name in first:
        assert files_on(hub)[name] != first[name]
    assert hub.private == {"lab/digits"}


# --- what cannot be pushed


def test_what_is_wrong_is_said_before_anything_is_asked(hub, clf):
    with pytest.raises(NotFittedError):
        push_to_hub(CLIPSVDClassifier("tiny"), "lab/digits")
    with pytest.raises(TypeError, match=r"clf is a CLIPEncoder; push_to_hub takes a fitted"):
        push_to_hub(CLIPEncoder("tiny"), "lab/digits")
    for name in ("digits", "lab/digits/more", "lab/dig its", ""):
        with pytest.raises(ValueError, match="write OWNER/NAME"):
            push_to_hub(clf, name)
    assert not hub.asked


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [
        (None, "lab/digits", "has to know who you are: log in with `hf auth login`, or set HF_TOK"),
        ("hf_wrong", "lab/digits", r"does not let you \(status 401\): use a token with the right"),
        (TOKEN, "other/digits", r"does not let you \(status 403\).*in place of 'other'"),
    ],
)
def test_who_may_not_write(reach, clf, token, name, said):
    with Mirror(writers={TOKEN: "lab"}) as hub:
        reach(hub, token)
        with pytest.raises(ConnectionError, match=f"hf-hub:{name} was not written.*{said}"):
            push_to_hub(clf, name)
        assert not hub.repositories


def test_a_hub_that_is_not_there(reach, clf, monkeypatch):
    reach(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(ConnectionError, match=r"lab/digits was not.*refuses the connection"):
        push_to_hub(clf, "lab/digits")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match="because HF_HUB_OFFLINE is set"):
        push_to_hub(clf, "lab/digits")


# --- a stranger's repository


@pytest.fixture(scope="module")
def adapter(clf, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    clf.save_adapter(path)
    return path.read_bytes()


def serve(reach, files, revisions=()):
    mirror = Mirror({"lab/digits": {"main": files, **dict(revisions)}})
    reach(mirror, token=None)
    return mirror


def test_only_the_adapter_is_asked_for(reach, adapter, tmp_path):
    trace = tmp_path / "it ran"
    program = f"open({str(trace)!r}, 'w').close()".encode()

    class Bomb:
        def __reduce__(self):
            return exec, (program.decode(),)

    others = {
        "adapter.pkl": pickle.dumps(Bomb()),
        "adapter.joblib": pickle.dumps(Bomb()),
        "config.json": b'{"auto_map": {"AutoModel": "model.Model"}}',
        "model.py": program,
        "__init__.py": program,
        "open_clip_config.json": b"{}",
        "README.md": b"---\nlibrary_name: !!python/object/apply:os.system ['true']\n---",
    }
    with serve(reach, {**others, "adapter.safetensors": adapter}) as hub:
        load_adapter("hf-hub:lab/digits")
        assert {path.rpartition("/")[2] for _, path in hub.asked} == {"adapter.safetensors"}
    assert not trace.exists()


def test_it_is_fetched_once_and_kept(reach, adapter):
    with serve(reach, {"adapter.safetensors": adapter}) as hub:
        load_adapter("hf-hub:lab/digits")
        hub.asked.clear()
        load_adapter("hf-hub:lab/digits")
        assert [command for command, _ in hub.asked] == ["HEAD"]
    assert load_adapter("hf-hub:lab/digits").classes_.size == 10  # nobody answers any more


def test_a_revision_is_pinned(reach, clf, adapter, tmp_path):
    clf.with_classes(["one", "two"]).save_adapter(tmp_path / "two")
    old = {"adapter.safetensors": (tmp_path / "two").read_bytes()}
    with serve(reach, {"adapter.safetensors": adapter}, {"v1": old}):
        for revision in ("v1", commit_of("lab/digits", "v1")):
            assert load_adapter(f"hf-hub:lab/digits@{revision}").classes_.size == 2
        assert load_adapter("hf-hub:lab/digits").classes_.size == 10
        with pytest.raises(FileNotFoundError, match="it has no revision 'v9'"):
            load_adapter("hf-hub:lab/digits@v9")


def test_what_is_not_there(reach, adapter):
    with serve(reach, {"README.md": b"hello"}):
        with pytest.raises(FileNotFoundError, match=r"lab/digits has no adapter\.safetensors"):
            load_adapter("hf-hub:lab/digits")
        with pytest.raises(FileNotFoundError, match="no such repository"):
            load_adapter("hf-hub:lab/other")
        for name in ("digits", "a/b/c"):
            with pytest.raises(ValueError, match="write OWNER/NAME"):
                load_adapter(f"hf-hub:{name}")


def test_a_huge_file_is_not_fetched(reach, adapter, monkeypatch):
    with serve(reach, {"adapter.safetensors": adapter}) as hub:
        find = hub.find

        def huge(path):
            status, headers, content = find(path)
            return status, {**headers, "X-Linked-Size": str(2**30 + 1)}, content

        monkeypatch.setattr(hub, "find", huge)
        with pytest.raises(ValueError, match=r"has 1,073,741,825 bytes and is not fetched"):
            load_adapter("hf-hub:lab/digits")
        assert {command for command, _ in hub.asked} == {"HEAD"}


def changed(adapter, **parameters):
    """The adapter as a stranger would write it, who leaves the checksum out."""
    n = int.from_bytes(adapter[:8], "little")
    header = json.loads(json.loads(adapter[8 : 8 + n])["__metadata__"]["skclipsvd"])
    del header["sha256"]
    header["parameters"] |= {name: {"value": value} for name, value in parameters.items()}
    return save(load(adapter), metadata={"skclipsvd": json.dumps(header)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda a: pickle.dumps("a program"), "damaged or not a safetensors file"),
        (lambda a: a[:-4], "damaged or not a safetensors file"),
        (lambda a: a[:-4] + b"\0\0\0\0", "its checksum has changed"),
        (lambda a: save({"x": np.zeros(3, np.float32)}), "not an adapter of skclipsvd"),
        (lambda a: changed(a, model_name="hf-hub:evil/base"), "a file is not allowed to choose"),
        (lambda a: changed(a, model_name="local-dir:/etc"), "a file is not allowed to choose"),
        (lambda a: changed(a, pretrained="/etc/passwd"), "a file is not allowed to choose"),
        (lambda a: changed(a, batch_size=-1), "batch_size"),
    ],
)
def test_a_strangers_adapter_is_refused_by_the_repositorys_name(reach, adapter, content, said):
    with serve(reach, {"adapter.safetensors": content(adapter)}) as hub:
        with pytest.raises(ValueError, match=f"^hf-hub:lab/digits .*{said}") as caught:
            load_adapter("hf-hub:lab/digits")
        assert "cache" not in str(caught.value)
        assert {path.rpartition("/")[2] for _, path in hub.asked} == {"adapter.safetensors"}


def test_a_stranger_chooses_no_device_and_no_folder(reach, adapter, tmp_path):
    content = changed(adapter, device="cuda:7", checkpoint_dir=str(tmp_path / "chosen"))
    with serve(reach, {"adapter.safetensors": content}):
        clf = load_adapter("hf-hub:lab/digits")
    assert (clf.device, clf.checkpoint_dir) == ("auto", None)


def test_the_command_reads_it(reach, adapter, capsys):
    from skclipsvd.commands import main

    with serve(reach, {"adapter.safetensors": adapter}):
        assert main(["info", "hf-hub:lab/digits"]) == 0
    assert "backbone" in capsys.readouterr().out
    clear_caches()
