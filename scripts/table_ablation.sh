#!/usr/bin/env bash
# Ablation of PointMCD on the Princeton meshes with PointNet: one thing exchanged at a time, 512
# points, 12 epochs, three seeds. Fills expt/results.csv and prints the table.
#   bash scripts/prepare_psb26.sh PSB26.tar.xz && bash scripts/table_ablation.sh
#   VARIANTS="views4 l2"   some of the variants below; all by default
#   SEEDS, EPOCHS, JOBS, DRY, RESULTS, LOGS: see scripts/table_functions.sh
# A run takes a minute and a half on one CPU thread, all 45 half an hour on two cores. The teacher is
# that of scripts/table_psb26.sh, trained here (about 20 minutes) where it is not there yet.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=PSB26
RECIPE="" SETS="psb26 psb26_ablation"
EPOCHS_USUAL=12
source scripts/table_functions.sh
source scripts/teacher_psb26.sh

# name of the variant, what it changes
declare -A CHANGES=(
    [pointmcd]=""                               # the paper's method
    [baseline]="terms.alignment.weight=0"                 # no teacher
    [global]="terms.alignment.pooling=global"           # shape code for the maximum over all points
    [hpr]="targets.visibility=hpr"              # hidden point removal instead of rays
    [all]="targets.visibility=all"              # every view sees every point
    [random]="targets.visibility=random"        # as many points per view, but any
    [views1]="targets.views=1"
    [views4]="targets.views=4"
    [views8]="targets.views=8"
    [distill0.1]="terms.alignment.weight=0.1"
    [task1]="terms.task.weight=1"
    [lr0.01]="optim.lr=0.01"                    # a tenth of the rate of all others
    [l2]="terms.alignment.distance=l2"
    [cosine]="terms.alignment.distance=cosine"
    [shuffled]="targets.shuffle=all"     # control: the codes of another shape
)
ORDER="pointmcd baseline global all random hpr shuffled task1 distill0.1 lr0.01 views1 views4 views8 l2 cosine"

teacher_psb26
for seed in $SEEDS; do
    for variant in ${VARIANTS:-$ORDER}; do
        if [ -z "${CHANGES[$variant]+known}" ]; then
            echo "unknown variant $variant, expected some of $ORDER" >&2
            exit 2
        fi
        student_job "${DATA}_ablation_${variant}_s$seed$SUFFIX" pointnet test \
            targets.bank="$BANK" train.seed="$seed" ${CHANGES[$variant]}
    done
done | run_jobs

run $PYTHON -m scripts.make_tables --results $RESULTS --data $DATA --kind ablation
