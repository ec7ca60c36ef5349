#!/usr/bin/env bash
# Table of ModelNet40: every student without and with distillation, 1,024 points, the recipes of the
# papers, the last epoch tested once. Meant for one GPU.
#   bash scripts/prepare_modelnet40.sh ARCHIVE && JOBS=1 bash scripts/table_modelnet40.sh
# trains the teacher, exports its codes, trains the students, tests them and prints the table, into
# which published figures go as a column of their own. The whole table has not been run yet.
#   TEACHER_WEIGHTS=PATH   ImageNet weights of the teacher's backbone (default: torchvision's)
#   REDUCED=1              what a CPU can do: PointNet on 512 points for 5 epochs, batches of 32 and
#                          bfloat16, taught by SqueezeNet on small views (3 epochs); the table shows
#                          points and epochs. About 25 minutes for the teacher on one CPU thread,
#                          10 for a student
#   DATA, TEACHER          another set; another name of the teacher's run
#   TEACHER_SET            what is laid over the teacher's recipe, a name of scripts/configs/sets
#   TEACHER_OVERRIDES      overrides for the teacher's configuration, a.b=c
# scripts/table_functions.sh lists what else can be chosen.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-ModelNet40}
if [ -n "${REDUCED:-}" ]; then
    SETS="modelnet40 modelnet40_reduced" TEACHER_SET=${TEACHER_SET:-modelnet40_reduced_teacher} SUFFIX=_reduced
    ENCODERS=${ENCODERS:-pointnet} CHOOSE=${CHOOSE-}
    TEACHER=${TEACHER:-${DATA}_squeezenet1_0_s0}
else
    SETS=modelnet40 TEACHER_SET=${TEACHER_SET:-modelnet40_teacher}
    ENCODERS=${ENCODERS:-pointnet pointnet2_ssg pointnet2_msg dgcnn curvenet}
    TEACHER=${TEACHER:-${DATA}_mobilenet_v2_s0}
    JOBS=${JOBS:-1}
fi
RECIPE="" EPOCHS_USUAL=""
source scripts/table_functions.sh
BANK=expt/teacher/$TEACHER.h5

if ! has_row $TEACHER test || [ ! -f ckpt/teacher/$TEACHER.pth ]; then
    run $PYTHON train_teacher.py $(files_of teacher $TEACHER_SET) run.name=$TEACHER \
        data.name=$DATA teacher.weights="${TEACHER_WEIGHTS:-imagenet}" ${TEACHER_OVERRIDES:-}
    run $PYTHON test.py ckpt/teacher/$TEACHER.pth --results "$RESULTS"
fi
run $PYTHON export_teacher.py ckpt/teacher/$TEACHER.pth --output $BANK

choose_weights
compare_jobs | run_jobs

run $PYTHON -m scripts.make_tables --results "$RESULTS" --data $DATA
