#!/usr/bin/env bash
# What should be measured in a quarter of an hour on a borrowed machine with one GPU, which starts
# bare and has no network:
#   PSB26=PSB26.tar.xz MODELNET40=modelnet40_ply_hdf5_1024.tar.xz WHEELS=wheels \
#       TEACHER_WEIGHTS=squeezenet1_0.pth bash scripts/gpu.sh
# It stops by itself and says what is done and what is missing, and the same command goes on: trainings
# resume, and steps that ended and rows that are there are not run again. Code 1: a step failed, 124:
# something is missing.
#   STEPS="tests bench profile ratio psb26 modelnet40"   all of them, in this order: tests of what runs
#                       on CUDA; scripts.bench; scripts.profile_step; the speed of training against
#                       that in BASE; the tables of both sets, of ModelNet40 with PointNet++ SSG first
#   LIMIT=840           seconds for all; LIMIT_TESTS=120, LIMIT_BENCH=80, ...: at most for one
#   OUT=expt/gpu        results as they come: bench_cuda.json and profile_cuda.txt (once whole, in expt/
#                       too), speed_ratio.json, results.csv, predictions/, logs/, summary.txt
#   PSB26, MODELNET40   archives of the sets, unless these lie in data/ prepared
#   TEACHER_WEIGHTS     ImageNet weights of torchvision's squeezenet1_0, which teaches on both sets
#   WHEELS=FOLDER       of packages that are missing, see scripts/README.md; they go to SITE
#   BASE=FOLDER         a checkout of another commit, BASE_ARGUMENTS for its training: see
#                       scripts/compare_speed.py
#   EPOCHS_PSB26=150, EPOCHS_MODELNET40=60, ENCODERS_MODELNET40   of the students
#   JOBS=3              trainings side by side; and SEEDS, ENCODERS ... of scripts/table_psb26.sh
#   STUDENT_OVERRIDES, TEACHER_OVERRIDES   a.b=c, in place of train.amp=bf16
#   FRESH=1             tests, bench, profile and ratio once more
#   DRY=1               print the commands only
#   TINY=1              rehearsal, a few minutes on a CPU: small sizes, embedded shapes for both sets,
#                       one epoch; OUT=expt/tiny
# shellcheck disable=SC2086  # PYTHON and options hold several words
set -uo pipefail
for name in PSB26 MODELNET40 TEACHER_WEIGHTS WHEELS BASE; do
    case ${DRY:-}${!name:-} in "" | none | imagenet) continue ;; esac # words of TEACHER_WEIGHTS
    if [ -n "${DRY:-}" ]; then continue; fi
    if [ ! -e "${!name}" ]; then echo "$name: there is no ${!name}" >&2; exit 2; fi
    declare "$name=$(realpath "${!name}")"
done
cd "$(dirname "$0")/.." || exit
ALL="tests bench profile ratio psb26 modelnet40"
STEPS=${STEPS:-$ALL}
for name in $STEPS; do
    case " $ALL " in *" $name "*) continue ;; esac
    echo "unknown step $name, expected some of: $ALL" >&2
    exit 2
done
LIMIT=${LIMIT:-840}
SITE=${SITE:-$PWD/.venv-wheels}
export PYTHON=${PYTHON:-python} PYTHONUNBUFFERED=1 JOBS=${JOBS:-3}
if [ -n "${TINY:-}" ]; then
    OUT=${OUT:-expt/tiny} DEVICE=cpu PSB26_SET=TinyPSB26 MODELNET40_SET=TinyModelNet40
    TESTS=tests/test_projection.py PROFILE="--batch 2 --points 512 --warm-up 1 --steps 1 --amp none"
    BENCH="--quick --rounds 1 --only projection,points,loading"
    RATIO="--encoders pointnet --amp none --epochs 2 --rounds 1 --batch 8"
    EPOCHS_PSB26=1 EPOCHS_MODELNET40=1 ENCODERS_MODELNET40=pointnet2_ssg
    SHAPES="--shapes-train 1 --shapes-test 1 --points 1024 --image-size 32"
    options="train.amp=none train.batch_size=8 run.device=cpu run.overwrite=true"
    export ENCODERS=pointnet SEEDS=0 CHOOSE="" CONTROLS="" TEACHER_WEIGHTS=none
    export STUDENT_OVERRIDES=$options
    export TEACHER_OVERRIDES="$options train.epochs=1 data.workers=0 data.views=2 data.size=32"
else
    OUT=${OUT:-expt/gpu} DEVICE=cuda PSB26_SET=PSB26 MODELNET40_SET=ModelNet40
    TESTS="$(grep -l cuda.is_available tests/test_*.py) tests/test_pointops.py tests/test_projection.py"
    PROFILE="" BENCH="" RATIO=""
    export STUDENT_OVERRIDES=${STUDENT_OVERRIDES-train.amp=bf16} TEACHER_WEIGHTS
    export TEACHER_OVERRIDES=${TEACHER_OVERRIDES-train.amp=bf16}
fi
export RESULTS=$OUT/results.csv LOGS=$OUT/logs
source scripts/timed_steps.sh
if [ -n "${FRESH:-}" ] && [ -z "${DRY:-}" ]; then rm -f "$OUT"/done/* "$OUT/speed_ratio.json"; fi

keep() { # a file of $OUT that is whole: what was measured for real belongs to the project
    if [ -z "${TINY:-}${DRY:-}" ]; then cp "$OUT/$1" expt; fi
}

psb26_table() { # what is to run the script with these settings
    DATA=$PSB26_SET EPOCHS=${EPOCHS_PSB26:-150} "$@" bash scripts/table_psb26.sh
}

modelnet40_table() {
    DATA=$MODELNET40_SET EPOCHS=${EPOCHS_MODELNET40:-60} SEEDS=0 CHOOSE="" \
        ENCODERS=${ENCODERS_MODELNET40:-pointnet2_ssg pointnet dgcnn curvenet} \
        TEACHER=${MODELNET40_SET}_squeezenet1_0_e10_s0 TEACHER_SET=modelnet40_reduced_teacher \
        TEACHER_OVERRIDES="data.size=128 train.epochs=10 $TEACHER_OVERRIDES" \
        "$@" bash scripts/table_modelnet40.sh
}

missing() { # step: the trainings whose rows its table lacks
    case $1:${STATUS[$1]:-} in
        *:skipped*) ;;
        psb26:* | modelnet40:*)
            DRY=1 "$1_table" env | sed -nE 's|.*test.py ckpt/student/(\S+)\.pth.*|\1|p' | xargs
            ;;
    esac
}

prepared() { # set, step, archive: whether the set is in data/ or could be made
    if [ -f "data/$1/report.json" ] && [ -z "${DRY:-}" ]; then return; fi
    if [ -n "${TINY:-}" ]; then
        step "$2_data" 200 $PYTHON -m data.prepare --shapes --name "$1" $SHAPES
    elif [ -n "$3" ]; then
        step "$2_data" 200 bash "scripts/prepare_$2.sh" "$3"
    else
        STATUS[$2]="skipped: there is no data/$1, and no archive in ${2^^}"
        [ -n "${DRY:-}" ]
    fi
}

table() { # step, seconds
    STATUS[$1]="done, all rows are there"
    if [ -n "${DRY:-}" ] || [ -n "$(missing "$1")" ]; then "$1_table" step "$1" "$2"; fi
}

if [ -n "${WHEELS:-}" ]; then
    step wheels 120 $PYTHON -m scripts.add_wheels "$WHEELS" --target "$SITE"
    export PYTHONPATH=$SITE${PYTHONPATH:+:$PYTHONPATH}
fi
for name in $STEPS; do
    case $name in
        tests) once tests 120 $PYTHON -m pytest -v --tb=short $TESTS ;;
        bench)
            once bench 80 $PYTHON -m scripts.bench --device $DEVICE $BENCH \
                --json "$OUT/bench_$DEVICE.json" && keep "bench_$DEVICE.json"
            ;;
        profile)
            once profile 40 $PYTHON -m scripts.profile_step --device $DEVICE $PROFILE \
                --output "$OUT/profile_$DEVICE.txt" && keep "profile_$DEVICE.txt"
            ;;
        ratio)
            STATUS[ratio]="skipped: it takes a checkout, BASE, and the set of psb26"
            if [ -n "${BASE:-}" ] && prepared $PSB26_SET psb26 "${PSB26:-}"; then
                once ratio 240 $PYTHON -m scripts.compare_speed --base "$BASE" --data $PSB26_SET \
                    ${BASE_ARGUMENTS:+--base-arguments "$BASE_ARGUMENTS"} $RATIO --device $DEVICE \
                    --json "$OUT/speed_ratio.json"
            fi
            ;;
        psb26) prepared $PSB26_SET psb26 "${PSB26:-}" && table psb26 420 ;;
        modelnet40) prepared $MODELNET40_SET modelnet40 "${MODELNET40:-}" && table modelnet40 840 ;;
    esac
done
