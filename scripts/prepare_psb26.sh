#!/usr/bin/env bash
# Princeton Shape Benchmark, 26 classes, 556 train / 580 test meshes, y up.
#   bash scripts/prepare_psb26.sh PSB26.tar.xz [more options of data.prepare]
# unpacks the archive (PSB26/<class>/<train,test>/<id>.off) into a temporary folder and prepares
# data/PSB26: 12 views of 224 x 224, 2,048 points, exact visibility.
set -euo pipefail
source "$(dirname "$0")/unpack.sh"
$PYTHON -m data.prepare "$unpacked/PSB26" --name PSB26 --up y "$@"
