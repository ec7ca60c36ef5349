#!/usr/bin/env bash
# Table of part segmentation: every student without and with distillation, 2,048 points, one number of
# epochs for all, the last epoch tested once: instance and class mIoU by both rules.
#   bash scripts/prepare_labeledpsb.sh LabeledPSB.tar.xz && bash scripts/table_partseg.sh
# trains the autoencoder teacher on the views, from it the segmentation teacher, exports its codes,
# trains the students, tests them and prints the table.
# On one CPU thread the teachers take about a quarter of an hour together, and by the measured time of
# a step a student takes 5 minutes (PointNet), 7 (PointNet++ SSG), 30 to 50 (the others).
#   DATA=LabeledPSB        ShapeNetPart runs the papers' recipes, for a GPU; see data/README.md for it
#   TEACHER_WEIGHTS        first weights of the autoencoder: none, imagenet or a file of vgg11_bn
#                          (default: as its configuration says)
# scripts/table_functions.sh lists what else can be chosen.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-LabeledPSB}
ENCODERS=${ENCODERS:-pointnet pointnet2_ssg pointnet2_msg dgcnn curvenet}
RECIPE=partseg_ SETS="" AUTOENCODER_SET="" TEACHER_SET="" EPOCHS_USUAL=""
if [ "$DATA" = LabeledPSB ]; then
    SETS=labeledpsb EPOCHS_USUAL=15
    AUTOENCODER_SET=labeledpsb_autoencoder TEACHER_SET=labeledpsb_teacher
fi
source scripts/table_functions.sh
FIRST=${DATA}_autoencoder_s0
TEACHER=${DATA}_partseg_teacher_s0
BANK=expt/teacher/$TEACHER.h5

if ! has_row "$TEACHER" test || [ ! -f "ckpt/teacher/$TEACHER.pth" ]; then
    run $PYTHON train_teacher.py $(files_of teacher_autoencoder $AUTOENCODER_SET) \
        run.name="$FIRST" data.name="$DATA" ${TEACHER_WEIGHTS:+teacher.weights="$TEACHER_WEIGHTS"}
    run $PYTHON test.py "ckpt/teacher/$FIRST.pth" --results "$RESULTS"
    run $PYTHON train_teacher.py $(files_of teacher_partseg $TEACHER_SET) \
        run.name="$TEACHER" data.name="$DATA" init="ckpt/teacher/$FIRST.pth"
    run $PYTHON test.py "ckpt/teacher/$TEACHER.pth" --results "$RESULTS"
fi
run $PYTHON export_teacher.py "ckpt/teacher/$TEACHER.pth" --output "$BANK"

choose_weights
compare_jobs | run_jobs

run $PYTHON -m scripts.make_tables --results "$RESULTS" --data "$DATA" --kind segmentation
