#!/usr/bin/env bash
# Puts together what pack_wheels.sh has cut up; needs no network.
#
#     install_pieces.sh PIECES TARGET
#     export PYTHONPATH=TARGET/site
#
# PIECES: the folder with site.tar.xz.aa, .ab, ... TARGET: where `site` is to be.
set -euo pipefail
if [ $# -ne 2 ]; then sed -n '3,6p' "$0" >&2; exit 2; fi
mkdir -p "$2"
cat "$1"/site.tar.xz.* | xz -dc -T0 | tar -x -C "$2"
echo "export PYTHONPATH=$(cd "$2" && pwd)/site"
