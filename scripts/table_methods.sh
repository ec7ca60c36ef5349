#!/usr/bin/env bash
# Table of methods on the Princeton meshes: what a student gains from a teacher by each of them, beside
# a baseline whose weights were chosen with the same budget, with the codes of other shapes as
# controls, and what a training costs. Fills expt/results.csv and prints the table.
#   bash scripts/prepare_psb26.sh PSB26.tar.xz && bash scripts/table_methods.sh
#   ENCODERS               students: pointnet pointnet2_ssg dgcnn pointmlp_elite
#   METHODS                some of those below; all by default
#   EPOCHS                 of all students; by default near convergence, see epochs_of
#   SEEDS="0 1 2"          of every row; CONTROLS="0" of the rows with codes of other shapes, "" for none
#   TEACHER_WEIGHTS=PATH   ImageNet weights of torchvision's squeezenet1_0, the teacher of all methods
#                          but PointCMT's and the frozen one (default: downloaded)
#   CMT_WEIGHTS=PATH       those of resnet18, PointCMT's teacher (default: downloaded)
#   TIMM=NAME              the frozen teacher (tf_efficientnet_lite0), with TIMM_WEIGHTS=FILE (default:
#                          timm's release, downloaded)
#   TINY=1                 all of it on the embedded shapes, a few minutes on a CPU: one epoch, two of
#                          the three weights to choose from; the table goes to FOLDER, expt/tiny_methods
#   JOBS, DRY, RESULTS, LOGS, ONE_PROCESS: see scripts/table_functions.sh
# Every method has three sets of weights to choose from, tried with seed 0 on a held-out fifth of train;
# the best one makes its rows and those of its controls. A dry run takes the first. Seconds per epoch
# are comparable where runs had the machine for themselves: JOBS=1.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-PSB26}
RECIPE="" SETS=psb26 EPOCHS_USUAL=""
ENCODERS=${ENCODERS:-pointnet pointnet2_ssg dgcnn pointmlp_elite}
CONTROLS=${CONTROLS-0}
SEEDS=${SEEDS:-0 1 2}
ORDER="baseline logits similarity pointmcd pointcmt pointmcd_classifier frozen"
METHODS=${METHODS:-$ORDER}
if [ -n "${TINY:-}" ]; then
    FOLDER=${FOLDER:-expt/tiny_methods} DATA=TinyMethods
    RESULTS=$FOLDER/results.csv LOGS=$FOLDER/logs ONE_PROCESS=${ONE_PROCESS-1} JOBS=1
    EPOCHS=1 EPOCHS_USUAL=1 SEEDS=0 CONTROLS=0 TRIED=2
    TIMM=test_vit TIMM_WEIGHTS=none TEACHER_WEIGHTS=none CMT_WEIGHTS=none TIMM_SIZE=32
    SMALL="train.amp=none train.batch_size=8 train.eval_every=1 train.pictures=false
        data.workers=0 run.device=cpu run.overwrite=true"
    STUDENT_OVERRIDES="data.points=512 $SMALL"
    TEACHER_OVERRIDES="data.name=$DATA data.size=32 data.views=2 train.epochs=1 $SMALL"
    GENERATOR_OVERRIDES="train.epochs=1 $SMALL"
fi
SEEDS_SLOW=${SEEDS_SLOW:-$SEEDS}
JOBS=${JOBS:-1}  # side by side, the column of costs would mean nothing
source scripts/table_functions.sh
TEACHER=${TEACHER:-${DATA}_squeezenet1_0_s0}
source scripts/teacher_psb26.sh
CMT_TEACHER=${DATA}_pointcmt_teacher_s0
CMT_BANK=expt/teacher/$CMT_TEACHER.h5
GENERATOR=${DATA}_pointcmt_generator_s0
TIMM=${TIMM:-tf_efficientnet_lite0}
TIMM_BANK=expt/teacher/${DATA}_timm_$TIMM.h5

# The files that are laid over a student's recipe, and what else makes a method of it.
declare -A OVERLAY=([logits]=logits [similarity]=similarity [pointcmt]=pointcmt)
declare -A MADE_OF=(
    [baseline]="terms.alignment.weight=0"
    [logits]="targets.bank=$BANK"
    [similarity]="targets.bank=$BANK"
    [pointmcd]="targets.bank=$BANK"
    [pointcmt]="targets.bank=$CMT_BANK terms.feature.generator=ckpt/teacher/$GENERATOR.pth"
    [pointmcd_classifier]="targets.bank=$BANK method=pointmcd+classifier student.head=pointcmt"
    [frozen]="targets.bank=$TIMM_BANK targets.normalise=standard"
)
# What is chosen from, three of each: those of the papers in the middle of a range, or with a task
# weight of 0.1 and of 1. `|` stands between them.
declare -A WEIGHTS=(
    [baseline]="task=0.1|task=1|task=0.3"
    [logits]="task=0.1 logits=0.9|task=0.1 logits=0.3|task=0.1 logits=2.7"
    [similarity]="task=0.1 similarity=300|task=0.1 similarity=30|task=0.1 similarity=3000"
    [pointmcd]="task=0.1 alignment=1|task=1 alignment=1|task=0.1 alignment=0.1"
    [pointcmt]="task=0.1 feature=3 classifier=0.96|task=1 feature=30 classifier=9.6|task=0.1 feature=0.3 classifier=0.096"
    [pointmcd_classifier]="task=0.1 alignment=1 classifier=0.96|task=1 alignment=1 classifier=0.96|task=0.1 alignment=0.1 classifier=0.96"
    [frozen]="task=0.1 alignment=1|task=1 alignment=1|task=0.1 alignment=0.1"
)
for method in $METHODS; do
    if [ -z "${MADE_OF[$method]+known}" ]; then
        echo "unknown method $method, expected some of $ORDER" >&2
        exit 2
    fi
done

epochs_of() { # encoder
    case ${EPOCHS:-$1} in
        pointnet) echo 150 ;;
        pointnet2_ssg) echo 80 ;;
        "${EPOCHS:-none}") echo "$EPOCHS" ;;
        *) echo 60 ;;
    esac
}

# The weights to try, one set a line: names and numbers as overrides.
tried() { # method
    tr '|' '\n' <<<"${WEIGHTS[$1]}" | head -n "${TRIED:-3}"
}

as_overrides() { # name=weight ...
    printf 'terms.%s ' "$@" | sed 's/=/.weight=/g'
}

as_name() { # name=weight ...
    local joined="$*"
    joined=${joined//=/}
    echo "${joined// /-}"
}

method_job() { # name encoder method split overrides
    local name=$1 encoder=$2 method=$3 split=$4 usual=$SETS
    shift 4
    SETS="$usual ${OVERLAY[$method]:-}"
    student_job "$name" "$encoder" "$split" data.name="$DATA" train.epochs="$(epochs_of "$encoder")" \
        ${MADE_OF[$method]} "$@"
    SETS=$usual
}

choice_jobs() {
    local encoder method weights
    for encoder in $ENCODERS; do
        for method in $METHODS; do
            tried "$method" | while read -r weights; do
                method_job "${DATA}_methods_${encoder}_${method}_choose${SUFFIX}_$(as_name $weights)" \
                    "$encoder" "$method" val $(as_overrides $weights) protocol.val_fraction=0.2 \
                    train.seed=0
            done
        done
    done
}

chosen() { # encoder method
    local found weights
    if [ -n "${DRY:-}" ]; then
        as_overrides $(tried "$2" | head -n 1)
        return
    fi
    found=$($PYTHON -m scripts.choose_weight --results "$RESULTS" --data "$DATA" --model "$1" \
        --epochs "$(epochs_of "$1")" --runs "${DATA}_methods_$1_$2_choose${SUFFIX}_")
    weights=$(tried "$2" | while read -r weights; do
        if [ "$(as_name $weights)" = "$found" ]; then as_overrides $weights; fi
    done)
    if [ -z "$weights" ]; then
        echo "$1 $2: $RESULTS chose $found, which is none of the weights tried here" >&2
        exit 2
    fi
    echo "$weights"
}

result_jobs() {
    local encoder method seed control weights name
    for encoder in $ENCODERS; do
        for method in $METHODS; do
            weights=$(chosen "$encoder" "$method")
            name=${DATA}_methods_${encoder}_$method
            for seed in $SEEDS; do
                method_job "${name}_s$seed$SUFFIX" "$encoder" "$method" test $weights \
                    train.seed="$seed"
            done
            if [ "$method" = baseline ]; then continue; fi
            for seed in $CONTROLS; do
                method_job "${name}_shuffled_s$seed$SUFFIX" "$encoder" "$method" test $weights \
                    targets.shuffle=all train.seed="$seed"
                method_job "${name}_shuffled_class_s$seed$SUFFIX" "$encoder" "$method" test $weights \
                    targets.shuffle=class train.seed="$seed"
            done
        done
    done
}

# PointCMT's teacher and generator: the recipe on views of the size, and by the rate, of the other one.
teach_pointcmt() {
    if ! has_row "$CMT_TEACHER" test || [ ! -f "ckpt/teacher/$CMT_TEACHER.pth" ]; then
        run $PYTHON train_teacher.py $(files_of pointcmt_teacher psb26_teacher) \
            teacher.backbone=resnet18 optim.min_lr=3.0e-4 run.name="$CMT_TEACHER" \
            teacher.weights="${CMT_WEIGHTS:-imagenet}" ${TEACHER_OVERRIDES:-}
        run $PYTHON test.py "ckpt/teacher/$CMT_TEACHER.pth" --results "$RESULTS"
    fi
    run $PYTHON export_teacher.py "ckpt/teacher/$CMT_TEACHER.pth" --output "$CMT_BANK" ${RENEW:-}
    run $PYTHON train_teacher.py $(files_of pointcmt_generator) data.name="$DATA" \
        targets.bank="$CMT_BANK" run.name="$GENERATOR" train.epochs=100 train.batch_size=16 \
        ${GENERATOR_OVERRIDES:-}
}

if [ -n "${TINY:-}" ]; then
    run $PYTHON -m data.prepare --shapes --name $DATA --shapes-train 3 --shapes-test 1 \
        --points 1024 --image-size 32
    RENEW=--overwrite
    if [ -z "${DRY:-}" ]; then
        mkdir -p "$FOLDER"
        rm -f "$RESULTS"
    fi
fi
teacher_psb26
case " $METHODS " in *" pointcmt "*) teach_pointcmt ;; esac
case " $METHODS " in
    *" frozen "*)
        run $PYTHON export_teacher.py --timm "$TIMM" --data $DATA --output "$TIMM_BANK" \
            ${TIMM_WEIGHTS:+--weights "$TIMM_WEIGHTS"} ${TIMM_SIZE:+--size "$TIMM_SIZE"} ${RENEW:-}
        ;;
esac
choice_jobs | run_jobs
result_jobs | run_jobs

run $PYTHON -m scripts.make_tables --results "$RESULTS" --data $DATA --kind methods
