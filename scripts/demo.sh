#!/usr/bin/env bash
# The whole method on the embedded shapes, under five minutes on two CPU cores: prepare, teacher,
# export, PointNet without and with distillation, test, table, overview picture.
# Everything goes to data/Shapes, ckpt and expt; a second call finds the work done and only tests.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
RESULTS=${RESULTS:-expt/demo/results.csv}
BANK=expt/teacher/demo_teacher.h5

$PYTHON -m data.prepare --shapes --name Shapes --shapes-train 16 --shapes-test 12 \
    --points 1024 --image-size 48
$PYTHON train_teacher.py scripts/configs/demo/teacher.yaml run.name=demo_teacher
$PYTHON export_teacher.py ckpt/teacher/demo_teacher.pth
$PYTHON train_student.py scripts/configs/demo/student.yaml run.name=demo_baseline loss.distill=0
$PYTHON train_student.py scripts/configs/demo/student.yaml run.name=demo_pointmcd distill.bank=$BANK
rm -f "$RESULTS"
for checkpoint in teacher/demo_teacher student/demo_baseline student/demo_pointmcd; do
    $PYTHON test.py ckpt/$checkpoint.pth --results "$RESULTS" --pictures expt/demo
done
$PYTHON -m scripts.make_tables --results "$RESULTS"
$PYTHON -m scripts.overview ckpt/student/demo_baseline.pth ckpt/student/demo_pointmcd.pth \
    --output expt/demo/overview.png
