#!/usr/bin/env bash
# What should be measured in a quarter of an hour on a borrowed machine with one GPU, which starts
# bare and without a network:
#   PSB26=PSB26.tar.xz MODELNET40=modelnet40_ply_hdf5_1024.tar.xz WHEELS=wheels \
#       TEACHER_WEIGHTS=squeezenet1_0.pth bash scripts/gpu.sh
# It stops by itself and says what is done and what is missing, and the same command goes on: trainings
# resume, and neither steps that ended nor rows that are there run again. Code 1: a step failed, 124:
# something is missing.
#   STEPS="tests bench profile ratio psb26 modelnet40"   all of them, in this order: tests of what runs
#                       on CUDA; scripts.bench and scripts.profile_step; the speed of training against
#                       that in BASE; the tables of both sets, of ModelNet40 with PointNet++ SSG first
#   LIMIT=840           seconds for all; LIMIT_TESTS=120, LIMIT_BENCH=80, LIMIT_PROFILE=40 and so on
#   OUT=expt/gpu        results as they come: bench_cuda.json and profile_cuda.txt (once they are whole,
#                       in expt/ too), speed_ratio.json, results.csv, predictions/, logs/, summary.txt
#   PSB26, MODELNET40   archives of the sets, unless these lie in data/ prepared
#   TEACHER_WEIGHTS     ImageNet weights of torchvision's squeezenet1_0, which teaches on both
#   WHEELS=FOLDER       of packages that are missing, see scripts/README.md; they go to SITE
#   BASE=FOLDER         a checkout of another commit, BASE_ARGUMENTS for its train_student.py: see
#                       scripts/compare_speed.py
#   EPOCHS_PSB26=150, EPOCHS_MODELNET40=60   of the students
#   JOBS=3              trainings side by side; SEEDS and others of scripts/table_psb26.sh
#   STUDENT_OVERRIDES, TEACHER_OVERRIDES     a.b=c, train.amp=bf16 unless given
#   FRESH=1             tests, bench, profile and ratio once more
#   DRY=1               print the commands only
#   TINY=1              rehearsal on a CPU in a few minutes: small sizes, embedded shapes for both sets,
#                       one epoch; OUT=expt/tiny
# shellcheck disable=SC2086  # PYTHON and options hold several words
set -uo pipefail
for name in PSB26 MODELNET40 TEACHER_WEIGHTS WHEELS BASE; do
    if [ -z "${!name:-}" ] || [ -n "${DRY:-}" ]; then continue; fi
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
CLOSING=7 # seconds of it, to end what runs and to sum up
SITE=${SITE:-$PWD/.venv-wheels}
export PYTHON=${PYTHON:-python} PYTHONUNBUFFERED=1
if [ -n "${TINY:-}" ]; then
    OUT=${OUT:-expt/tiny} DEVICE=cpu PSB26_NAME=TinyPSB26 MODELNET40_NAME=TinyModelNet40
    TESTS="tests/test_projection.py"
    BENCH="--quick --rounds 1 --only projection,points,loading"
    PROFILE="--batch 2 --points 512 --warm-up 1 --steps 1"
    RATIO="--encoders pointnet --amp none --epochs 2 --rounds 1 --batch 8"
    EPOCHS_PSB26=1 EPOCHS_MODELNET40=1 SEEDS=0 FIRST=pointnet THEN=pointnet2_ssg
    export TEACHER_WEIGHTS=none CHOOSE="" CONTROLS=""
    tiny="train.amp=none train.batch_size=8 run.device=cpu run.overwrite=true"
    export STUDENT_OVERRIDES=$tiny
    export TEACHER_OVERRIDES="$tiny train.epochs=1 data.workers=0 data.views=2 data.size=32"
else
    OUT=${OUT:-expt/gpu} DEVICE=cuda PSB26_NAME=PSB26 MODELNET40_NAME=ModelNet40
    TESTS=$(grep -l cuda.is_available tests/test_*.py)" tests/test_pointops.py tests/test_projection.py"
    BENCH="" PROFILE="" RATIO=""
    export STUDENT_OVERRIDES=${STUDENT_OVERRIDES-train.amp=bf16}
    export TEACHER_OVERRIDES=${TEACHER_OVERRIDES-train.amp=bf16}
fi
export RESULTS=$OUT/results.csv LOGS=$OUT/logs JOBS=${JOBS:-3} TEACHER_WEIGHTS SEEDS
