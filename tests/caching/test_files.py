"""How files get where they are kept."""

import os
import stat
from pathlib import Path

import pytest

from skclipsvd.caching.files import cache_dir, replacing


def write(path, text="new"):
    with replacing(path) as temporary:
        temporary.write_text(text)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_a_new_file_honours_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a") == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o440])
def test_an_existing_file_keeps_its_mode(tmp_path, mode):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(mode)
    write(tmp_path / "a")
    assert mode_of(tmp_path / "a") == mode
    assert (tmp_path / "a").read_text() == "new"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


def test_the_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write("~/a")
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "~").exists()


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path):
    left, killed = [], []
    for age in (0, 2 * 24 * 3600):
        killed.append(replacing(tmp_path / "a"))
        left.append(killed[-1].__enter__())  # and never leaves
        then = left[-1].stat().st_mtime - age
        os.utime(left[-1], (then, then))
    (tmp_path / ".theirs.tmp").touch()
    os.utime(tmp_path / ".theirs.tmp", (1, 1))
    write(tmp_path / "a")
    assert left[0].exists()
    assert not left[1].exists()
    assert (tmp_path / ".theirs.tmp").exists()


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    writer = replacing(tmp_path / "a")
    writer.__enter__().write_text("half")
    with pytest.raises(RuntimeError):
        writer.gen.throw(RuntimeError())
    assert [f.name for f in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_without_a_home_there_is_still_a_folder(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for variable in ("SKCLIPSVD_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    assert cache_dir() == cache_dir()
    write(cache_dir() / "a")
    assert (cache_dir() / "a").read_text() == "new"
