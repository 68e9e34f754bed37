#!/usr/bin/env bash
# Packs what `train` on JAX needs into pieces, for a machine with a GPU and no network.
#
#     tools/pack_wheels.sh OUT PYTHON [HAS]
#
# OUT: a folder that must not exist. PYTHON: of the version that the machine has, such as python3.12.
# HAS: a file with the packages of that machine, as `pip freeze` or `pip list` writes them there; none of
# them is packed, nor what only they need. Without it: JAX, PyTorch, NumPy and what these come with.
#
# The versions are those of requirements.txt, but for TensorFlow, which is the CPU build: it reads the
# data, JAX computes. Gives OUT/site.tar.xz.aa, .ab, ... of at most 45 MiB each, and a copy of
# install_pieces.sh, which puts them together again.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '3,5p' "$0" >&2; exit 2; fi
tools=$(cd "$(dirname "$0")" && pwd)
out=$1; python=$2; has=${3:-}
[ ! -e "$out" ] || { echo "error: $out is there already: name another folder" >&2; exit 2; }
mkdir -p "$out"
"$python" -m venv "$out/venv"
pip="$out/venv/bin/pip"

# What only exports need stays here.
grep -v -E '^(#|-e|ai-edge-litert|flatbuffers|onnx|onnxruntime|tf2onnx)' "$tools/../requirements.txt" |
  sed 's/^tensorflow==/tensorflow-cpu==/' > "$out/wanted.txt"
"$pip" install --quiet --dry-run --ignore-installed --report "$out/report.json" -r "$out/wanted.txt"
"$out/venv/bin/python" - "$out/report.json" "$has" > "$out/packed.txt" <<'PYTHON'
import json
import re
import sys
from pathlib import Path

report, has = sys.argv[1:]
there = "jax jaxlib numpy scipy torch ml_dtypes opt_einsum filelock fsspec sympy mpmath setuptools"
names = Path(has).read_text().splitlines() if has else there.split()
known = {re.split(r"[=\s@]", name.strip())[0].lower().replace("_", "-") for name in names}
for found in json.loads(Path(report).read_text())["install"]:
    name = found["metadata"]["name"]
    if name.lower().replace("_", "-") not in known:
        print(f"{name}=={found['metadata']['version']}")
PYTHON
"$pip" install --quiet --no-deps --target "$out/site" -r "$out/packed.txt"
rm -rf "$out/site/tensorflow/include" "$out/site/bin" # 287 MB that only compilers want
# Tables for debuggers: 200 MB of TensorFlow's.
find "$out/site" -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null || true
tar -C "$out" -c site | xz -T0 --x86 --lzma2=preset=6 | split -b 45MiB - "$out/site.tar.xz."
cp "$tools/install_pieces.sh" "$out/"
rm -rf "$out/site" "$out/venv" "$out/report.json" "$out/wanted.txt"
ls -l "$out"
