#!/usr/bin/env bash
# ModelNet40 as point clouds, 40 classes, 9,843 train / 2,468 test (9,840 train in the 2,048-point
# release), official split.
#   bash scripts/prepare_modelnet40.sh modelnet40_ply_hdf5_1024.tar.xz [more options of data.prepare]
#   bash scripts/prepare_modelnet40.sh modelnet40_ply_hdf5_2048.zip
#   bash scripts/prepare_modelnet40.sh FOLDER         (either of them, unpacked)
# prepares data/ModelNet40: 12 views drawn from the points, hidden point removal, up to 2,048 points.
# IMAGE_SIZE  pixels per side, 128 unless given: the views of such clouds have no finer detail
# UP          the axis that is up in the files; known by their names: z in ..._1024, y in ..._2048
# 60 ms of processor time per cloud of 1,024 points: about 7 minutes on two free cores, 0.65 GB.
set -euo pipefail
source "$(dirname "$0")/unpack.sh"
case $(basename "$given") in
    *hdf5_1024*) UP=${UP:-z} ;;
    *hdf5_2048*) UP=${UP:-y} ;;
esac
if [ -z "${UP:-}" ]; then
    echo "which axis is up in $given? give UP=z (the 1,024-point files) or UP=y (the release)" >&2
    exit 2
fi
source=$(dirname "$(find -L "$unpacked" -name shape_names.txt -print -quit)")
if [ ! -f "$source/shape_names.txt" ]; then
    echo "$given holds no shape_names.txt: expected the layout of modelnet40_ply_hdf5_2048" >&2
    exit 3
fi
$PYTHON -m data.prepare "$source" --name ModelNet40 --layout modelnet40-h5 --up "$UP" \
    --image-size "${IMAGE_SIZE:-128}" "$@"
