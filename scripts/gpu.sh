#!/usr/bin/env bash
# All that a machine with one GPU should measure, in this order: the tests of what runs on it, the
# benchmark and the profile of a training step (expt/bench_cuda.json, expt/profile_cuda.txt), the time
# of PointNet++ SSG with distillation on ModelNet40, then all four students without and with it.
#   bash scripts/prepare_modelnet40.sh ARCHIVE && bash scripts/gpu.sh
#   STEPS="bench profile"   only these of: tests bench profile ssg all
#   EPOCHS=250              of the students
#   STUDENT_OVERRIDES, TEACHER_OVERRIDES   overrides, a.b=c: bfloat16, and one CUDA graph per step for students
#   DRY=1                   print the commands only
#   TINY=1                  rehearsal, a few minutes on a CPU: small sizes, the embedded shapes, one
#                           epoch; what is measured goes to FOLDER, expt/tiny
# Minutes of every run stand in the table that is printed at the end and in expt/results.csv. Ends
# with code 1 if a test failed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
STEPS=${STEPS:-tests bench profile ssg all}
# those with something to run on a GPU, and those of the operations themselves
TESTS=$(ls $(grep -l cuda.is_available tests/test_*.py) tests/test_pointops.py tests/test_projection.py)
if [ -n "${TINY:-}" ]; then
    FOLDER=${FOLDER:-expt/tiny} DEVICE=cpu EPOCHS=${EPOCHS:-1} OTHERS=pointnet
    BENCH="--quick --rounds 1 --only projection,points,loading"
    PROFILE="--batch 2 --points 512 --warm-up 1 --steps 1"
    export DATA=TinyShapes TEACHER=TinyShapes_teacher RESULTS=$FOLDER/results.csv LOGS=$FOLDER/logs
    export TEACHER_WEIGHTS=none
    export TEACHER_OVERRIDES="teacher.backbone=squeezenet1_0 data.workers=0 data.views=2
        train.epochs=1 train.batch_size=8 run.device=cpu run.overwrite=true"
    export STUDENT_OVERRIDES="train.batch_size=8 run.device=cpu run.overwrite=true"
    if [ -z "${DRY:-}" ]; then
        mkdir -p $FOLDER
        rm -f $RESULTS
    fi
else
    FOLDER=expt DEVICE=cuda EPOCHS=${EPOCHS:-250} OTHERS="pointnet dgcnn curvenet"
    BENCH="" PROFILE=""
    export STUDENT_OVERRIDES=${STUDENT_OVERRIDES-train.amp=bf16 train.cuda_graph=true}
    export TEACHER_OVERRIDES=${TEACHER_OVERRIDES-train.amp=bf16}
fi

run() {
    if [ -n "${DRY:-}" ]; then echo "$@"; else "$@"; fi
}

table() { # encoders
    CHOOSE="" SEEDS=0 JOBS=1 ENCODERS=$1 EPOCHS=$EPOCHS PYTHON=$PYTHON \
        bash scripts/table_modelnet40.sh
}

for step in $STEPS; do
    echo "== $step"
    case $step in
        tests) run $PYTHON -m pytest -q $TESTS || FAILED=1 ;; # the rest is measured all the same
        bench) run $PYTHON -m scripts.bench --device $DEVICE $BENCH --json $FOLDER/bench_$DEVICE.json ;;
        profile)
            run $PYTHON -m scripts.profile_step --device $DEVICE $PROFILE \
                --output $FOLDER/profile_$DEVICE.txt
            ;;
        ssg)
            if [ -n "${TINY:-}" ]; then
                run $PYTHON -m data.prepare --shapes --name $DATA --shapes-train 1 --shapes-test 1 \
                    --points 1024 --image-size 32
            fi
            time table pointnet2_ssg
            ;;
        all) time table "pointnet2_ssg $OTHERS" ;;
        *) echo "unknown step $step, expected some of: tests bench profile ssg all" >&2; exit 2 ;;
    esac
done
exit ${FAILED:-0}
