"""The hub is tried within seconds; what failed is said by its name, and the log is left alone."""

import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.pretrained import get_pretrained_cfg, list_pretrained

from skclipsvd import CLIPZeroShotClassifier, clear_caches, describe_targets
from skclipsvd.clip import hub as module
from skclipsvd.clip import load_backbone
from skclipsvd.clip.hub import Repository, UnavailableError, quiet
from tests.helpers.families import bert_look_alike, write_model
from tests.helpers.mirror import Mirror, closed_port, commit_of, fresh_sessions, online

LABELS = ["temple", "flower"]
CPU = torch.device("cpu")


def files_of(model):
    folder = Path(model.removeprefix("local-dir:"))
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def reach(monkeypatch, tmp_path):
    """Point this process to a hub, with an empty cache."""
    clear_caches()
    yield lambda endpoint: online(monkeypatch, endpoint, tmp_path / "cache")
    clear_caches()
    fresh_sessions()


def fit(name="hf-hub:lab/model", pretrained=None):
    clear_caches()
    return CLIPZeroShotClassifier(name, pretrained).fit(None, LABELS)


def test_a_model_comes_from_a_mirror_on_any_port_and_is_kept(small_model, reach):
    with Mirror({"lab/model": {"main": files_of(small_model)}}) as mirror:
        reach(mirror.url)
        assert len(describe_targets("hf-hub:lab/model")) == 36
        fit()
        fetched = load_backbone("hf-hub:lab/model", None, CPU)
        assert fetched.fingerprint == load_backbone(small_model, None, CPU).fingerprint
        assert [p for c, p in mirror.asked if c == "GET"] == [
            "/lab/model/resolve/main/open_clip_config.json",
            f"/lab/model/resolve/{commit_of('lab/model', 'main')}/open_clip_model.safetensors",
        ]
        mirror.asked.clear()
        fit()  # one question: which commit is the newest
        assert mirror.asked == [("HEAD", "/lab/model/resolve/main/open_clip_config.json")]
    fit()  # nobody answers any more, but it is on this disk


def test_offline_is_obeyed_and_nobody_is_asked(small_model, reach, monkeypatch):
    with Mirror({"lab/model": {"main": files_of(small_model)}}) as mirror:
        reach(mirror.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE is set.*Three ways"):
            fit()
        assert not mirror.asked
        monkeypatch.delenv("HF_HUB_OFFLINE")
        fit()
        mirror.asked.clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        fit()
        assert not mirror.asked


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"does not let you in \(status 401\): log in with `hf auth login`, or set HF_TOKEN"),
        (403, "does not let you in"),
        (500, "answers with status 500"),
        (407, "the proxy between here"),
        (404, "has no repository 'lab/model' with open_clip_config.json"),
    ],
)
def test_what_a_hub_answers_is_said(reach, status, said):
    with Mirror(status=status) as mirror:
        reach(mirror.url)
        with pytest.raises(FileNotFoundError, match=said) as caught:
            fit()
    assert "model_name='hf-hub:lab/model'" in str(caught.value)
    assert mirror.url in str(caught.value)
    assert "Three ways" in str(caught.value)


def test_a_name_that_is_not_there_gets_suggestions(small_model, reach):
    with Mirror({"lab/model": {"main": files_of(small_model)}}) as mirror:
        reach(mirror.url)
        fit()
        with pytest.raises(FileNotFoundError, match=r"no such repository.*'lab/model'"):
            fit("hf-hub:lab/modell")
        with pytest.raises(FileNotFoundError, match=r"no such repository.*'timm/ViT-B-16-SigLIP"):
            fit("hf-hub:tim/ViT-B-16-SigLIP")
        with pytest.raises(FileNotFoundError, match="write OWNER/NAME"):
            fit("hf-hub:not/a/name")
        mirror.repositories["lab/model"]["main"].pop("open_clip_model.safetensors")
        mirror.repositories["lab/empty"] = mirror.repositories["lab/model"]
        with pytest.raises(FileNotFoundError, match=r"hf-hub:lab/empty has no open_clip_model"):
            fit("hf-hub:lab/empty")


def test_a_closed_port_is_a_refusal(reach):
    reach(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(FileNotFoundError, match=r"http://127.0.0.1:\d+ refuses the connection"):
        fit()
    with pytest.raises(FileNotFoundError, match=r"openai'.*refuses the connection"):
        fit("ViT-B-16", "openai")


def test_a_name_that_nobody_knows(reach):
    reach("http://hub.invalid:8080")
    with pytest.raises(FileNotFoundError, match=r"http://hub.invalid:8080 cannot be looked up"):
        fit()


def test_silence_ends_after_one_short_wait(reach, monkeypatch):
    with Mirror(hang=True) as mirror:
        reach(mirror.url)
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
        with pytest.raises(FileNotFoundError, match=r"does not answer within 1 seconds"):
            fit()
        with pytest.raises(FileNotFoundError, match="does not answer"):
            fit("ViT-B-16", "openai")
        assert [command for command, _ in mirror.asked] == ["HEAD", "HEAD"]  # not tried again


def test_something_that_is_no_hub(reach, monkeypatch):
    with Mirror() as mirror:
        reach(mirror.url)
        monkeypatch.setattr(mirror, "find", lambda path: (200, {}, b"a landing page"))
        with pytest.raises(FileNotFoundError, match="does not answer as a hub does"):
            fit()


def test_a_proxy_is_used_and_named_without_its_password(small_model, reach, monkeypatch):
    with Mirror({"lab/model": {"main": files_of(small_model)}}) as proxy:
        reach("http://hub.invalid")
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//me:secret@"))
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
        fresh_sessions()
        fit()
        assert all(path.startswith("http://hub.invalid/lab") for _, path in proxy.asked)
    fresh_sessions()
    with pytest.raises(FileNotFoundError, match=r"through the proxy http://127") as caught:
        fit("hf-hub:lab/other")
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_called_one(small_model, reach, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Mirror({"lab/model": {"main": files_of(small_model)}}) as mirror:
        reach(mirror.url)
        monkeypatch.setattr(module, "hf_hub_download", full)
        with pytest.raises(OSError, match="its disk is full: free some space") as caught:
            fit()
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    "refused",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_memory_that_is_refused_is_no_damaged_checkpoint(small_model, monkeypatch, refused):
    def create_model(*args, **kwargs):
        try:
            raise refused
        except Exception as error:
            raise RuntimeError("could not load valid config") from error

    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(MemoryError, match="out of memory: the model was not loaded") as caught:
        fit(small_model)
    assert "damaged" not in str(caught.value)
    assert small_model in str(caught.value)


@pytest.mark.slow
def test_memory_that_the_system_refuses(small_model):
    """With a real limit: loading ends in a MemoryError, not in a damaged checkpoint."""
    resource = pytest.importorskip("resource")
    code = """
        import resource
        from skclipsvd.clip import weights
        build = weights.open_clip.create_model
        def limited(*args, **kwargs):
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
            return build(*args, **kwargs)
        try:
            weights.open_clip.create_model = limited
            weights.build_model("ViT-B-16", None)
        except MemoryError as error:
            print("said", error)
    """
    if not os.path.exists("/proc/self/statm"):
        pytest.skip(f"needs Linux's /proc ({resource.__name__})")
    done = run(code)
    assert done.stdout.startswith("said model_name='ViT-B-16'"), done.stderr


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_environment_alone_is_enough(small_model, tmp_path):
    """A fresh process, as users have it: a mirror on its own port, then offline."""
    code = """
        from skclipsvd import CLIPZeroShotClassifier
        clf = CLIPZeroShotClassifier("hf-hub:lab/model").fit(None, ["a", "b"])
        print(clf.backbone_fingerprint_)
    """
    with Mirror({"lab/model": {"main": files_of(small_model)}}) as mirror:
        place = dict(HF_ENDPOINT=mirror.url, HF_HOME=str(tmp_path), NO_PROXY="127.0.0.1")
        first = run(code, HF_HUB_OFFLINE="0", **place)
    expected = load_backbone(small_model, None, CPU).fingerprint
    assert first.stdout.strip() == expected, first.stderr
    assert "INFO" not in first.stderr
    assert "WARNING" not in first.stderr
    again = run(code, HF_HUB_OFFLINE="1", **place)
    assert again.stdout.strip() == expected, again.stderr
    assert again.stderr == ""


def test_a_pinned_revision_is_what_is_loaded(small_model, reach, tmp_path):
    old, new = files_of(small_model), files_of(small_model)
    config = json.loads(new["open_clip_config.json"])
    config["preprocess_cfg"]["mean"] = [0.25, 0.5, 0.75]
    new["open_clip_config.json"] = json.dumps(config).encode()
    with Mirror({"lab/model": {"main": new, "v1": old}}) as mirror:
        reach(mirror.url)
        for revision in ("v1", commit_of("lab/model", "v1")):
            pinned = load_backbone(f"hf-hub:lab/model@{revision}", None, CPU)
            assert pinned.preprocess.mean != (0.25, 0.5, 0.75)
        newest = load_backbone("hf-hub:lab/model", None, CPU)
        assert tuple(newest.preprocess.mean) == (0.25, 0.5, 0.75)
        with pytest.raises(FileNotFoundError, match="it has no revision 'v9'"):
            fit("hf-hub:lab/model@v9")
        with pytest.raises(ValueError, match="a tag or a commit behind the @"):
            fit("hf-hub:lab/model@")
    fit(f"hf-hub:lab/model@{commit_of('lab/model', 'v1')}")  # from this disk


@pytest.fixture
def biomed(tmp_path, monkeypatch):
    """A model with a Hugging Face text tower, spread over two repositories as BiomedCLIP is."""
    folder = tmp_path / "biomed"
    folder.mkdir()
    config = bert_look_alike(folder)
    write_model(folder, config)
    files = files_of(f"local-dir:{folder}")
    content = json.loads(files["open_clip_config.json"])
    content["model_cfg"]["text_cfg"].update(hf_model_name="lab/bert", hf_tokenizer_name="lab/bert")
    model = {
        "open_clip_config.json": json.dumps(content).encode(),
        "open_clip_model.safetensors": files["model.safetensors"],
    }
    del files["open_clip_config.json"], files["model.safetensors"]
    return f"local-dir:{folder}", {"lab/model": {"main": model}, "lab/bert": {"main": files}}


def test_a_hugging_face_text_tower_comes_from_its_own_repository(biomed, reach):
    local, repositories = biomed
    with Mirror(repositories) as mirror:
        reach(mirror.url)
        fetched = load_backbone("hf-hub:lab/model", None, CPU)
        here = load_backbone(local, None, CPU)
        assert fetched.fingerprint == here.fingerprint
        texts = ["a photo of a temple.", "flower"]
        torch.testing.assert_close(fetched.tokenize(texts), here.tokenize(texts), rtol=0, atol=0)
        asked = len(mirror.asked)
        fit()
        assert len(mirror.asked) - asked == 3  # which commits: model, text tower, tokeniser
        with pytest.raises(ValueError, match=r"a revision is named.*'lab/bert'"):
            fit("hf-hub:lab/model@main")
    fit()


def test_a_repositorys_code_is_not_run(biomed, reach, tmp_path):
    _, repositories = biomed
    trace = tmp_path / "it ran"
    bert = repositories["lab/bert"]["main"]
    bert["tok.py"] = (
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import BertTokenizer\nclass Tok(BertTokenizer): pass\n"
    ).encode()
    config = json.loads(bert["tokenizer_config.json"])
    config |= {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    plain = bert["tokenizer_config.json"]
    bert["tokenizer_config.json"] = json.dumps(config).encode()
    with Mirror(repositories) as mirror:
        reach(mirror.url)
        with pytest.raises(ValueError, match=r"auto_map.*stranger's code"):
            fit()
    bert["tokenizer_config.json"] = plain
    model = repositories["lab/model"]["main"]
    content = json.loads(model["open_clip_config.json"])
    content["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    model["open_clip_config.json"] = json.dumps(content).encode()
    bert["config.json"] = json.dumps(
        {**json.loads(bert["config.json"]), "auto_map": {"AutoConfig": "tok.Tok"}}
    ).encode()
    repositories = {f"other/{k.split('/')[1]}": v for k, v in repositories.items()}
    with Mirror(repositories) as mirror:
        reach(mirror.url)
        with pytest.raises(ValueError, match="trust_remote_code"):
            fit("hf-hub:other/model")
        asked = {path.rpartition("/")[2] for _, path in mirror.asked}
    assert asked == {"open_clip_config.json"}  # refused before anything else was fetched
    assert not trace.exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "hf-hub:stranger/model"),
        ("vision_cfg", "width", 10**9),
        ("text_cfg", "hf_tokenizer_name", "/etc"),
        ("text_cfg", "hf_model_name", "../other"),
        ("text_cfg", "surprise", 1),
    ],
)
def test_a_repositorys_configuration_is_not_believed(small_model, reach, section, key, value):
    files = files_of(small_model)
    config = json.loads(files["open_clip_config.json"])
    config["model_cfg"][section][key] = value
    files["open_clip_config.json"] = json.dumps(config).encode()
    with Mirror({"lab/model": {"main": files}}) as mirror:
        reach(mirror.url)
        with pytest.raises(ValueError, match=f"'{key}'.*Nothing of this model was loaded"):
            fit()
        assert not any("safetensors" in path for _, path in mirror.asked)


def test_sizes_of_a_repository_are_bounded_before_its_weights_are_fetched(small_model, reach):
    files = files_of(small_model)
    config = json.loads(files["open_clip_config.json"])
    config["model_cfg"]["text_cfg"] |= {"width": 16384, "vocab_size": 2_000_000, "heads": 16}
    files["open_clip_config.json"] = json.dumps(config).encode()
    with Mirror({"lab/model": {"main": files}}) as mirror:
        reach(mirror.url)
        with pytest.raises(ValueError, match="GiB is refused"):
            fit()
        assert not any("safetensors" in path for _, path in mirror.asked)


def test_transformers_is_called_missing_only_where_it_is(biomed, small_model, monkeypatch):
    local, _ = biomed
    monkeypatch.setitem(sys.modules, "transformers", None)  # what a missing package looks like
    with pytest.raises(ImportError, match=r"install transformers with.*skclipsvd\[hf\]"):
        fit(local)
    with pytest.raises(ImportError, match=r"skclipsvd\[hf\]"):
        fit("ViT-B-16-SigLIP", "webli")
    fit(small_model)


def test_an_unreachable_text_tower_is_not_called_a_missing_package(reach):
    pytest.importorskip("transformers")
    reach(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(FileNotFoundError, match=r"roberta-base.*refuses the connection"):
        fit("roberta-ViT-B-32", "laion2b_s12b_b32k")


def test_every_tag_of_open_clip_is_on_the_hub():
    assert all("/" in get_pretrained_cfg(*pair)["hf_hub"] for pair in list_pretrained())


@pytest.mark.parametrize(
    ("model", "tag", "quick_gelu"),
    [
        ("ViT-B-16", "openai", True),
        ("ViT-B-16", "laion2b_s34b_b88k", False),
        ("ViT-B-16-quickgelu", "dfn2b", True),
        ("ViT-SO400M-14-SigLIP", "webli", False),
    ],
)
def test_tags_keep_their_activation_and_preprocessing(model, tag, quick_gelu, reach, monkeypatch):
    """The tag's weights are a file by then; what else open_clip knows of the tag still counts.

    open_clip 3 only warns, and computes another function, where weights that were trained with
    QuickGELU meet a configuration that has GELU.
    """
    entry = get_pretrained_cfg(model, tag)
    name, filename = os.path.split(entry["hf_hub"])
    filename = filename or "open_clip_model.safetensors"
    built = {}

    def record(name, **options):
        built.update(options)
        raise RuntimeError("stop here")

    # a tokeniser of its own that the mirror has, where transformers is asked for one
    tokeniser = {"timm/ViT-B-16-SigLIP": {"main": {"tokenizer_config.json": b"{}"}}}
    repository = {name: {"main": {filename: b"weights", "tokenizer_config.json": b"{}"}}}
    with Mirror({**tokeniser, **repository}) as mirror:
        reach(mirror.url)
        monkeypatch.setattr(open_clip, "create_model", record)
        with pytest.raises(ValueError, match="stop here"):
            fit(model, tag)
    assert Path(built["pretrained"]).read_bytes() == b"weights"
    assert built["force_quick_gelu"] is quick_gelu
    stated = built["force_preprocess_cfg"]
    for key in ("mean", "std", "interpolation", "resize_mode"):
        assert stated[key] == entry[key]
    assert built["require_pretrained"]
    assert built["weights_only"]


class Kept(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.records = []

    def emit(self, record):
        self.records.append(record.getMessage())


@pytest.fixture
def kept():
    handler, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler.records
    root.setLevel(level)
    root.removeHandler(handler)


def test_open_clips_commentary_is_held_back_and_nobody_elses(small_model, kept):
    def elsewhere():
        with quiet():
            pass
        logging.info("of another thread")
        logging.getLogger("lab").warning("of a logger")

    with quiet():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        logging.info("of this thread")
        open_clip.create_model(small_model)
    assert kept == ["of another thread", "of a logger", "of this thread"]
    open_clip.create_model(small_model)
    assert len(kept) > 3  # it speaks again


def test_two_threads_that_load_leave_logging_as_it_was(small_model, kept):
    """Each leaves while the other one is still inside: whose state is put back must not matter."""
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with quiet():
            first_in.set()
            assert second_in.wait(60)
            open_clip.create_model(small_model)
        first_out.set()

    def second():
        assert first_in.wait(60)
        with quiet():
            second_in.set()
            assert first_out.wait(60)
            open_clip.create_model(small_model)

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first_out.is_set()
    assert logging.root.manager.disable == 0
    assert kept == []
    logging.error("still heard")
    assert kept == ["still heard"]


def test_a_repository_without_any_of_the_files(small_model, reach):
    with Mirror({"lab/model": {"main": files_of(small_model)}}) as mirror:
        reach(mirror.url)
        repository = Repository("lab/model")
        assert repository.find("nothing.txt") is None
        with pytest.raises(UnavailableError, match=r"lab/model has no a\.txt or b\.txt"):
            repository.first(["a.txt", "b.txt"])
        assert constants.HF_HUB_CACHE in str(repository.file("open_clip_config.json"))
