"""Files of the Hugging Face hub: fetched within seconds and written, or the reason why not."""

from __future__ import annotations

import contextlib
import difflib
import errno
import logging
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import open_clip
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    validate_repo_id,
)
from open_clip.pretrained import get_pretrained_cfg, list_pretrained

from ..progress import note

# For one question and its answer, not for a download. HF_HUB_ETAG_TIMEOUT wins.
_SECONDS = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_HEADER = "X-Repo-Commit"
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
_DISK = {
    errno.ENOSPC: "its disk is full: free some space, or set HF_HOME to a folder elsewhere",
    errno.EDQUOT: "its quota is used up: free some space, or set HF_HOME to a folder elsewhere",
    errno.EACCES: "it cannot be written to: set HF_HOME to a folder of yours",
    errno.EPERM: "it cannot be written to: set HF_HOME to a folder of yours",
    errno.EROFS: "it is read-only: set HF_HOME to a folder of yours",
}


class UnavailableError(FileNotFoundError):
    """What was asked of the hub is not on this disk and could not be fetched; it says why."""


class Repository:
    """One state of a repository of the hub: all its files come from the same commit.

    The hub is asked once, within five seconds, which commit is meant; a commit's files that are
    on this disk already are then used without asking again. Where the hub cannot be asked, what
    is on this disk is used.

    Parameters
    ----------
    name : str
        ``"OWNER/NAME"``.
    revision : str, optional
        A branch, a tag or a commit; the main branch by default.
    max_bytes : int, optional
        Larger files are not fetched, but a ValueError.
    """

    def __init__(self, name: str, revision: str | None = None, max_bytes: int | None = None):
        self.name, self.is_pinned = name, revision is not None
        self._max_bytes = max_bytes
        self._revision = revision or "main"
        self._commit = self._revision if _COMMIT.fullmatch(self._revision) else None
        self._is_noted = False
        self._trouble: Exception | None = None
        if _is_offline():
            self._trouble = OfflineModeIsEnabled("HF_HUB_OFFLINE")

    def file(self, filename: str) -> Path:
        """Return where a file lies on this disk, fetched if need be; errors as `first`."""
        return self.first([filename])

    def first(self, filenames: Iterable[str]) -> Path:
        """Return the first of these files that the repository has, fetched if need be.

        Raises
        ------
        UnavailableError
            The repository has none of them, or it could not be asked; the message says why.
        OSError
            The disk of the Hugging Face cache is full, or cannot be written to.
        """
        filenames = list(filenames)
        unavailable = None
        for filename in filenames:
            try:
                path = self.find(filename)
            except UnavailableError as error:  # another one may be on this disk
                unavailable = unavailable or error
                continue
            if path is not None:
                return path
        if unavailable is not None:
            raise unavailable
        names = " or ".join(filenames)
        if self._commit is not None:
            raise UnavailableError(f"hf-hub:{self.name} has no {names}.")
        raise UnavailableError(
            f"{_place()} has no repository {self.name!r} with {names}{self._near()}."
        )

    def find(self, filename: str) -> Path | None:
        """Return where a file lies on this disk, or None where the repository has none such.

        Raises
        ------
        UnavailableError, OSError
            As for `first`.
        """
        there: bool | None = None
        if self._commit is None and self._trouble is None:
            there = self._ask(filename)
        known = self._on_disk(filename, self._commit or self._revision)
        if isinstance(known, str):
            self._is_noted |= known == self._on_disk(filename, self._revision)
            return Path(known)
        if known is not None:  # an earlier answer was kept: no such file
            return None
        if there is None and self._trouble is None:
            there = self._ask(filename)
        if self._trouble is not None:
            raise self._unavailable(filename, self._trouble) from self._trouble
        return self._fetch(filename) if there else None

    def kept(self, filename: str) -> Path | None:
        """Return where a file lies on this disk already; the hub is not asked."""
        known = self._on_disk(filename, self._commit or self._revision)
        return Path(known) if isinstance(known, str) else None

    def _on_disk(self, filename: str, revision: str) -> object:
        """Return a path, None for a file that was never asked for, else that there is none."""
        return try_to_load_from_cache(
            self.name, filename, cache_dir=constants.HF_HUB_CACHE, revision=revision
        )

    def _ask(self, filename: str) -> bool:
        """Ask whether there is such a file, and of which commit; remember what went wrong."""
        try:
            with quiet():
                url = hf_hub_url(
                    self.name,
                    filename,
                    revision=self._commit or self._revision,
                    endpoint=_endpoint(),
                )
                answer = get_hf_file_metadata(url, timeout=_seconds())
        except HFValidationError as error:
            raise UnavailableError(
                f"{self.name!r} names no repository; write OWNER/NAME."
            ) from error
        except Exception as error:
            if isinstance(error, EntryNotFoundError) or (
                _status(error) == 404
                and not isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError))
            ):
                response = getattr(error, "response", None)
                headers = {} if response is None else response.headers
                self._commit = self._commit or headers.get(_COMMIT_HEADER)
                with contextlib.suppress(Exception), quiet():
                    self._download(filename)  # the client keeps the answer: no such file
                return False
            self._trouble = error
            return False
        if answer.commit_hash is None or answer.etag is None:
            self._trouble = ConnectionError("no commit, no ETag")
            return False
        if self._max_bytes is not None and (answer.size or 0) > self._max_bytes:
            raise ValueError(
                f"{filename} of hf-hub:{self.name} has {answer.size:,} bytes and is not fetched; "
                f"{self._max_bytes:,} are allowed."
            )
        self._commit = self._commit or answer.commit_hash
        return True

    def _fetch(self, filename: str) -> Path:
        note("downloading %s of hf-hub:%s", filename, self.name)
        try:
            path = Path(self._download(filename))
        except Exception as error:
            numbers = [getattr(cause, "errno", None) for cause in causes(error)]
            number = next((n for n in numbers if n in _DISK), None)
            if number is not None:
                raise OSError(
                    number,
                    f"{filename} of hf-hub:{self.name} cannot be written to the Hugging Face cache "
                    f"({constants.HF_HUB_CACHE}): {_DISK[number]}.",
                ) from error
            raise self._unavailable(filename, error) from error
        self._is_noted = True
        return path

    def _download(self, filename: str) -> str:
        return hf_hub_download(
            self.name,
            filename,
            # By its name first: the client notes which commit that is, for later use without a
            # network.
            revision=self._commit if self._is_noted else self._revision,
            cache_dir=constants.HF_HUB_CACHE,
            endpoint=_endpoint(),
            etag_timeout=_seconds(),
        )

    def _unavailable(self, filename: str, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"{filename} of hf-hub:{self.name} is not in the Hugging Face cache, and "
            f"{self._why(error)}."
        )

    def _why(self, error: Exception) -> str:
        if isinstance(error, OfflineModeIsEnabled):
            return "nothing is downloaded, because HF_HUB_OFFLINE is set"
        if isinstance(error, GatedRepoError):
            return f"its owner lets in who accepted its terms: do so on its page, then {_LOGIN}"
        if isinstance(error, RevisionNotFoundError):
            return f"it has no revision {self._revision!r}"
        if isinstance(error, RepositoryNotFoundError):
            return f"{_place()} has no such repository{self._near()}, or it is private: {_LOGIN}"
        if _status(error) in (401, 403):
            return f"{_place()} does not let you in (status {_status(error)}): {_LOGIN}"
        return _what_failed(error)

    def _near(self) -> str:
        near = difflib.get_close_matches(self.name, _known_repositories(), n=3, cutoff=0.6)
        return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def check_repository_name(name: str) -> None:
    """Raise ValueError for what is not ``OWNER/NAME``."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} names no repository; write OWNER/NAME.") from error
    if "/" not in name:
        raise ValueError(f"{name!r} has no owner; write OWNER/NAME.")


def upload(name: str, files: Mapping[str, bytes], *, private: bool, message: str) -> str:
    """Write files to a repository of the hub in one commit; it is made where there is none.

    Parameters
    ----------
    name : str
        ``"OWNER/NAME"``.
    files : mapping of str to bytes
        By their names in the repository, where files of these names are replaced.
    private : bool
        Whether a repository that is made here is; one that is there stays as it is.
    message : str
        The commit's.

    Returns
    -------
    url : str
        The repository's page.

    Raises
    ------
    ConnectionError
        The hub could not be asked, or does not let the user write there; it says why.
    """
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        if _is_offline():
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE")
        with quiet():
            api = HfApi(endpoint=_endpoint(), token=get_token())
            url = api.create_repo(name, private=private, exist_ok=True)
            api.create_commit(name, operations, commit_message=message)
    except Exception as error:
        raise ConnectionError(
            f"hf-hub:{name} was not written, because {_why_not_written(name, error)}."
        ) from error
    return str(url)


def _why_not_written(name: str, error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    status = _status(error)
    if status not in (401, 403):
        return _what_failed(error)
    if get_token() is None:
        return f"{_place()} has to know who you are: {_LOGIN}"
    owner = name.partition("/")[0]
    return (
        f"{_place()} does not let you (status {status}): use a token with the right to write, and "
        f"your name or an organisation's in place of {owner!r}"
    )


def weight_files(filename: str = "") -> list[str]:
    """Name the files that may hold a repository's weights, the safe format first.

    Parameters
    ----------
    filename : str, optional
        What open_clip's table says; by default the names that it has itself.
    """
    if filename in ("", "open_clip_pytorch_model.bin"):
        return ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    stem, kind = os.path.splitext(filename)
    return [f"{stem}.safetensors", filename] if kind in (".bin", ".pth") else [filename]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that it came from, whichever library wrapped it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        # requests keeps the error below it among its arguments, urllib3 as its reason
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        waiting += list(current.args)


def split_revision(identifier: str) -> tuple[str, str | None]:
    """Split ``OWNER/NAME@REVISION``; the revision is None where there is none."""
    name, at, revision = identifier.partition("@")
    if at and not revision:
        raise ValueError(f"'hf-hub:{identifier}': write a branch, a tag or a commit behind the @.")
    return name, revision or None


class _Commentary(logging.Filter):
    """Holds back open_clip's and the hub's records in the threads that asked for it.

    It stays in place, so that no two threads can take away each other's.
    """

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()
        self._sources = (str(Path(open_clip.__file__).parent) + os.sep,)

    def filter(self, record: logging.LogRecord) -> bool:
        depth = getattr(self._here, "depth", 0)
        return not depth or not (
            record.name.startswith("huggingface_hub") or record.pathname.startswith(self._sources)
        )

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            yield
        finally:
            self._here.depth -= 1


_COMMENTARY = _Commentary()
# open_clip writes to the root logger; a logger's filters see no records of the loggers below it.
_LOGGERS = ("", "huggingface_hub.utils._http", "huggingface_hub.file_download")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's and the hub's running commentary off the user's screen, in this thread."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_COMMENTARY)
    with _COMMENTARY.held_back():
        yield


def _what_failed(error: Exception) -> str:
    """Say in words why the hub could not be asked, by the types of the errors below."""
    names = {kind.__name__ for e in causes(error) for kind in type(e).__mro__}
    kinds = tuple(causes(error))
    place = _place()
    if "ProxyError" in names or _status(error) == 407:
        return f"the proxy between here and {place} failed ({_first_line(error)})"
    if any(isinstance(e, socket.gaierror) for e in kinds):
        return f"{place} cannot be looked up: this machine sees no internet, or the name is wrong"
    if any(isinstance(e, ConnectionRefusedError) for e in kinds):
        return f"{place} refuses the connection"
    if any(isinstance(e, TimeoutError) for e in kinds) or any("Timeout" in n for n in names):
        return f"{place} does not answer within {_seconds():g} seconds (HF_HUB_ETAG_TIMEOUT)"
    if any(isinstance(e, ssl.SSLError) for e in kinds):
        return f"the certificate of {place} is not accepted ({_first_line(error)})"
    if _status(error) is not None:
        return f"{place} answers with status {_status(error)}"
    if "FileMetadataError" in names or str(error) == "no commit, no ETag":
        return f"{place} does not answer as a hub does; see HF_ENDPOINT"
    return f"{place} cannot be reached ({_first_line(error)})"


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())[:200] or type(error).__name__
    return _without_password(text)


def _without_password(text: str) -> str:
    """Take names and passwords out of the URLs, such as a proxy's."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _endpoint() -> str | None:
    """The user's mirror, read at every call; None for what the hub's client knows."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _place() -> str:
    """Name the hub, and the proxy on the way to it."""
    address = urlsplit(_endpoint() or constants.ENDPOINT)
    place = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(address.hostname or ""):
        place += f" (through the proxy {_without_password(proxy)})"
    return place


def _seconds() -> float:
    named = os.environ.get("HF_HUB_ETAG_TIMEOUT", "")
    return float(named) if named.isdigit() and int(named) > 0 else _SECONDS


def _is_offline() -> bool:
    named = (os.environ.get(n, "").upper() for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return constants.HF_HUB_OFFLINE or any(value in _TRUE for value in named)


def _known_repositories() -> list[str]:
    """Names for suggestions: what open_clip knows, and what is on this disk."""
    entries = (get_pretrained_cfg(*pair).get("hf_hub", "") for pair in list_pretrained())
    names = {os.path.split(entry)[0] for entry in entries}
    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    names |= {folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders}
    return sorted(filter(None, names))
