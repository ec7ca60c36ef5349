#!/usr/bin/env bash
# Table of the Princeton meshes: every student without and with distillation, 1,024 points, one
# number of epochs for all, the last epoch tested once. Fills expt/results.csv and prints the table.
#   bash scripts/prepare_psb26.sh PSB26.tar.xz && bash scripts/table_psb26.sh
#   TEACHER_WEIGHTS=PATH   ImageNet weights of torchvision's squeezenet1_0 (default: downloaded)
#   ENCODERS, SEEDS        what to run; SEEDS_SLOW for dgcnn and curvenet
#   CHOOSE                 encoders whose baseline chooses its own task weight
#   EPOCHS=30              of all students; other numbers make rows of their own
#   JOBS=2                 runs side by side, one CPU thread each; JOBS=1 on a GPU
#   CONTROLS="0"           seeds of PointNet with the codes of other shapes (control); "" for none
#   TIMM=NAME              a frozen network of timm as another teacher of PointNet, for SEEDS, with
#                          TIMM_WEIGHTS=FILE (default: timm's release, downloaded)
#   DATA, TEACHER          another set; another name of the teacher's run
#   TEACHER_OVERRIDES      overrides for the teacher's configuration, a.b=c
#   DRY=1                  print the commands only
#   RESULTS=FILE           another table: an empty one runs everything anew
#   LOGS=FOLDER            where the output of the runs goes, expt/logs
# A second call goes on where the first one stopped; finished rows are not run again. The teacher is
# trained again where its row is there and its file is not, as in a fresh clone.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-PSB26}
RECIPE="" SETS=psb26
EPOCHS_USUAL=30
ENCODERS=${ENCODERS:-pointnet pointnet2_ssg dgcnn curvenet}
CONTROLS=${CONTROLS-0}
source scripts/table_functions.sh
source scripts/teacher_psb26.sh

teacher_psb26
if [ -n "${TIMM:-}" ]; then
    TIMM_BANK=expt/teacher/${DATA}_timm_$TIMM.h5
    run $PYTHON export_teacher.py --timm "$TIMM" --data "$DATA" --output "$TIMM_BANK" \
        ${TIMM_WEIGHTS:+--weights "$TIMM_WEIGHTS"}
fi
choose_weights
{
    compare_jobs
    for seed in $CONTROLS; do
        student_job "${DATA}_pointnet_shuffled_s$seed$SUFFIX" pointnet test \
            data.name="$DATA" targets.bank="$BANK" targets.shuffle=all train.seed="$seed"
    done
    for seed in ${TIMM:+$SEEDS}; do
        student_job "${DATA}_pointnet_${TIMM}_s$seed$SUFFIX" pointnet test \
            data.name="$DATA" targets.bank="$TIMM_BANK" train.seed="$seed"
    done
} | run_jobs

run $PYTHON -m scripts.make_tables --results "$RESULTS" --data "$DATA"
