#!/usr/bin/env bash
# Table of the Princeton meshes: every student without and with distillation, 1,024 points, one
# number of epochs for all, the last epoch tested once. Fills expt/results.csv and prints the table.
#   bash scripts/prepare_psb26.sh PSB26.tar.xz && bash scripts/table_psb26.sh
#   TEACHER_WEIGHTS=PATH   ImageNet weights of torchvision's squeezenet1_0 (default: the file beside
#                          the project if it is there, else torchvision downloads them)
#   ENCODERS, SEEDS        what to run; SEEDS_SLOW for dgcnn and curvenet
#   CHOOSE                 encoders whose baseline chooses its own task weight
#   EPOCHS=30              of all students; other numbers make rows of their own
#   JOBS=2                 runs side by side, one CPU thread each; JOBS=1 on a GPU
#   CONTROLS="0"           seeds of PointNet with the codes of other shapes (control); "" for none
#   DRY=1                  print the commands only
#   RESULTS=FILE           another table: an empty one runs everything anew
#   LOGS=FOLDER            where the output of the runs goes, expt/logs
# A second call goes on where the first one stopped; finished rows are not run again. The teacher is
# trained again where its row is there and its file is not, as in a fresh clone.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
EPOCHS=${EPOCHS:-30}
ENCODERS=${ENCODERS:-pointnet pointnet2_ssg dgcnn curvenet}
SEEDS=${SEEDS:-0 1 2}
SEEDS_SLOW=${SEEDS_SLOW:-0}
CONTROLS=${CONTROLS-0}
CHOOSE=${CHOOSE:-pointnet pointnet2_ssg}
JOBS=${JOBS:-2}
RESULTS=${RESULTS:-expt/results.csv}
LOGS=${LOGS:-expt/logs}
export LOGS
LOCAL_WEIGHTS=../shared/weights/squeezenet1_0_imagenet.pth
TEACHER=PSB26_squeezenet1_0_s0
BANK=expt/teacher/$TEACHER.h5
if [ -z "${TEACHER_WEIGHTS:-}" ]; then
    TEACHER_WEIGHTS=imagenet
    if [ -f $LOCAL_WEIGHTS ]; then TEACHER_WEIGHTS=$LOCAL_WEIGHTS; fi
fi
SUFFIX=""
if [ "$EPOCHS" != 30 ]; then SUFFIX=_e$EPOCHS; fi
THREADS=0
if [ "$JOBS" -gt 1 ]; then THREADS=1; fi

run() {
    if [ -n "${DRY:-}" ]; then echo "$@"; else "$@"; fi
}

has_row() { # run name, split
    [ -f "$RESULTS" ] && grep -q ",$1,PSB26,$2," "$RESULTS"
}

# One line a job, "name split overrides": trained, then tested on the split.
student_job() {
    local name=$1 encoder=$2 split=$3
    shift 3
    if has_row "$name" "$split"; then return; fi
    echo "$PYTHON train_student.py scripts/configs/psb26/$encoder.yaml run.name=$name" \
        "train.epochs=$EPOCHS run.threads=$THREADS $*" \
        "&& $PYTHON test.py ckpt/student/$name.pth --split $split --threads $THREADS --results $RESULTS"
}

run_jobs() { # reads lines, runs $JOBS of them at a time; output goes to $LOGS
    if [ -n "${DRY:-}" ]; then cat; return; fi
    mkdir -p "$LOGS"
    awk '{print NR "\t" $0}' | xargs -d '\n' -P "$JOBS" -I LINE bash -c '
        line=$(cut -f2- <<<"$1"); name=$(grep -o "run.name=[^ ]*" <<<"$line" | cut -d= -f2)
        if bash -c "$line" >"$LOGS/$name.log" 2>&1; then tail -n 1 "$LOGS/$name.log"
        else echo "failed: see $LOGS/$name.log"; tail -n 1 "$LOGS/$name.log"; exit 255; fi
    ' _ LINE
}

seeds_of() {
    case $1 in
        pointnet | pointnet2_ssg) echo "$SEEDS" ;;
        *) echo "$SEEDS_SLOW" ;;
    esac
}

if ! has_row $TEACHER test || [ ! -f ckpt/teacher/$TEACHER.pth ]; then
    run $PYTHON train_teacher.py scripts/configs/psb26/teacher.yaml run.name=$TEACHER \
        teacher.weights="$TEACHER_WEIGHTS"
    run $PYTHON test.py ckpt/teacher/$TEACHER.pth --results $RESULTS
fi
run $PYTHON export_teacher.py ckpt/teacher/$TEACHER.pth --output $BANK

# The task weight of the baselines, 0.1 or 1, is chosen on a fifth of train that is held out: for the
# encoders in CHOOSE by themselves, for the others (trained by SGD, like PointNet) with PointNet.
for encoder in $CHOOSE; do
    for weight in 0.1 1; do
        student_job "PSB26_${encoder}_choose_w$weight$SUFFIX" "$encoder" val \
            loss.distill=0 loss.task=$weight protocol.val_fraction=0.2
    done
done | run_jobs

for encoder in $ENCODERS; do
    case " $CHOOSE " in *" $encoder "*) chooser=$encoder ;; *) chooser=pointnet ;; esac
    if [ -n "${DRY:-}" ]; then weight=CHOSEN; else
        weight=$($PYTHON -m scripts.choose_weight --results $RESULTS --data PSB26 \
            --model "$chooser" --epochs "$EPOCHS")
    fi
    for seed in $(seeds_of "$encoder"); do
        student_job "PSB26_${encoder}_baseline_s$seed$SUFFIX" "$encoder" test \
            loss.distill=0 loss.task="$weight" train.seed="$seed"
        student_job "PSB26_${encoder}_pointmcd_s$seed$SUFFIX" "$encoder" test \
            distill.bank=$BANK train.seed="$seed"
    done
    if [ "$encoder" = pointnet ]; then
        for seed in $CONTROLS; do
            student_job "PSB26_${encoder}_shuffled_s$seed$SUFFIX" "$encoder" test \
                distill.bank=$BANK distill.shuffle_codes=true train.seed="$seed"
        done
    fi
done | run_jobs

run $PYTHON -m scripts.make_tables --results $RESULTS --data PSB26
