"""Check a built wheel: the typing marker, the embedded model and the texts are in; it is small."""

import argparse
import sys
import zipfile
from pathlib import Path

_NEEDED = (
    "skclipsvd/py.typed",
    "skclipsvd/models/tiny.safetensors",
    "skclipsvd/models/tiny.json",
    "skclipsvd/inspection/concepts/general.txt",
    "skclipsvd/inspection/concepts/biomedical.txt",
)
_MAX_MODEL_BYTES = 8 * 2**20


def main():
    """Exit with a message if a wheel is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    check(parser.parse_args().wheel)


def check(path):
    """Exit with a message if the wheel at `path` is not what it should be."""
    sizes = {entry.filename: entry.file_size for entry in zipfile.ZipFile(path).infolist()}
    missing = [name for name in _NEEDED if name not in sizes]
    if missing:
        sys.exit(f"{path} lacks {', '.join(missing)}")
    models = sum(size for name, size in sizes.items() if name.startswith("skclipsvd/models/"))
    if models > _MAX_MODEL_BYTES:
        sys.exit(f"{path}: the embedded model takes {models} bytes, more than {_MAX_MODEL_BYTES}")
    print(f"{len(sizes)} files, embedded model {models / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
