#!/usr/bin/env bash
# Run the tests on the lowest versions that pyproject.toml claims (Linux or macOS, five minutes on
# two cores and up to 3 GB of downloads): tools/lowest.sh [PYTEST ARGUMENTS]
#
# Dependencies and the extras that users install stand at their lowest; the tools of the tests are
# new ones. UV_TORCH_BACKEND=cpu spares the download of CUDA; LOWEST_PYTHON names another Python.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
chmod 755 "$work" # a test fits as another user
trap 'rm -rf "$work"' EXIT
uv() { if [ -x .venv/bin/uv ]; then .venv/bin/uv "$@"; else command uv "$@"; fi; }

python="${LOWEST_PYTHON:-3.11}"
uv pip compile -q --python-version "$python" --resolution lowest-direct --no-annotate --no-header \
  --extra hf --extra plot --extra dask --extra onnx pyproject.toml -o "$work/lowest.txt"
# Not a floor of ours: matplotlib before 3.10.8 calls what newer pyparsing warns about, and the
# tests take every warning for an error.
echo 'pyparsing<3.3' >"$work/tools.txt"
grep -v '^pyparsing=' "$work/lowest.txt" >>"$work/tools.txt"

uv venv -q --python "$python" "$work/venv"
export VIRTUAL_ENV="$work/venv"
uv pip install -q --constraints "$work/tools.txt" -e '.[test-core]'
"$VIRTUAL_ENV/bin/python" --version
uv pip list --format freeze | grep -v '^nvidia-'
export SKCLIPSVD_CACHE="$work/cache" HF_HUB_OFFLINE=1
"$VIRTUAL_ENV/bin/python" -m pytest "$@"
