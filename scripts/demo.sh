#!/usr/bin/env bash
# The whole method on the embedded shapes, one and a half minutes on two CPU cores: prepare, teacher,
# export, PointNet without and with distillation, test, table, overview picture.
# Everything goes to data/Shapes, ckpt and expt; a second call finds the work done and only tests.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
RESULTS=${RESULTS:-expt/demo/results.csv}
BANK=expt/teacher/demo_teacher.h5
# what a \ or a " of the path has to be between the quotes of the lines below
TABLE=${RESULTS//\\/\\\\}
TABLE=${TABLE//\"/\\\"}

$PYTHON -m scripts.in_one_process <<LINES
-m data.prepare --shapes --name Shapes --shapes-train 16 --shapes-test 12 \
    --points 1024 --image-size 48
train_teacher.py scripts/configs/demo/teacher.yaml run.name=demo_teacher
export_teacher.py ckpt/teacher/demo_teacher.pth
train_student.py scripts/configs/demo/student.yaml run.name=demo_baseline loss.distill=0
train_student.py scripts/configs/demo/student.yaml run.name=demo_pointmcd distill.bank=$BANK
test.py ckpt/teacher/demo_teacher.pth --results "$TABLE" --pictures expt/demo
test.py ckpt/student/demo_baseline.pth --results "$TABLE" --pictures expt/demo
test.py ckpt/student/demo_pointmcd.pth --results "$TABLE" --pictures expt/demo
-m scripts.make_tables --results "$TABLE"
-m scripts.overview ckpt/student/demo_baseline.pth ckpt/student/demo_pointmcd.pth \
    --output expt/demo/overview.png
LINES
