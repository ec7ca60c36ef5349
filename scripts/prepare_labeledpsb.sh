#!/usr/bin/env bash
# Labelled Princeton segmentation benchmark: 19 categories of 20 meshes with a part for every face,
# y up.
#   bash scripts/prepare_labeledpsb.sh LabeledPSB.tar.xz [more options of data.prepare]
# unpacks the archive (labeleddb/LabeledDB_new/<Class>/<n>.off, <n>_labels.txt) into a temporary
# folder and prepares data/LabeledPSB: 228 train / 152 test as data/labeledpsb_split.json has them,
# 16 views of 224 x 224 with label images, 2,048 points with part labels. A minute and a half on two
# busy cores.
set -euo pipefail
source "$(dirname "$0")/unpack.sh"
$PYTHON -m data.prepare "$unpacked/labeleddb/LabeledDB_new" --name LabeledPSB --up y \
    --recipe dual16 --split-file data/labeledpsb_split.json "$@"
