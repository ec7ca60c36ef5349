#!/usr/bin/env bash
# Table of learning without labels, on the Princeton meshes: an autoencoder of the views teaches the
# students, by their alignment alone; a linear SVM and few-shot episodes then read their frozen
# features, on the same set and on others, beside those of the same networks with random weights; and
# the encoders are fine-tuned on the classes.
#   bash scripts/prepare_psb26.sh PSB26.tar.xz && bash scripts/prepare_modelnet40.sh ARCHIVE
#   bash scripts/table_unsupervised.sh
# On one CPU thread the autoencoder takes about 7 minutes, and for each seed pre-training and
# fine-tuning about 5 each and the probes about 10, most of it for ModelNet40.
#   PROBED="PSB26 ModelNet40"   prepared sets whose shapes are classified
#   ENCODERS="pointnet"         the students
#   TEACHER_WEIGHTS             first weights of the autoencoder: none, imagenet or a file of
#                               vgg11_bn (default: as its configuration says)
# scripts/table_functions.sh lists what else can be chosen.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=PSB26
RECIPE="" SETS=psb26
EPOCHS_USUAL=30
ENCODERS=${ENCODERS:-pointnet}
PROBED=${PROBED:-PSB26 ModelNet40}
CHOOSE=${CHOOSE-pointnet}
source scripts/table_functions.sh
TEACHER=PSB26_autoencoder_s0
BANK=expt/teacher/$TEACHER.h5

if [ ! -f ckpt/teacher/$TEACHER.pth ]; then
    run $PYTHON train_teacher.py $(files_of teacher_autoencoder psb26_autoencoder) \
        run.name=$TEACHER \
        ${TEACHER_WEIGHTS:+teacher.weights="$TEACHER_WEIGHTS"}
    run $PYTHON test.py ckpt/teacher/$TEACHER.pth --results "$RESULTS"
fi
run $PYTHON export_teacher.py ckpt/teacher/$TEACHER.pth --output $BANK

probe_jobs() { # checkpoint's name, random seed or nothing
    local name=$1${2:+_random$2} control=${2:+--random-weights $2} data
    for data in $PROBED; do
        if ! has_row "$name" test "linear SVM" "$data"; then
            printf '%s\t%s\n' "${name}_svm_$data" "$PYTHON test.py ckpt/student/$1.pth --probe svm \
--data $data $control --threads $THREADS --results $RESULTS"
        fi
        if ! has_row "$name" test "5-way 10-shot" "$data"; then
            printf '%s\t%s\n' "${name}_fewshot_$data" "$PYTHON test.py ckpt/student/$1.pth \
--probe fewshot --queries 10 --data $data $control --threads $THREADS --results $RESULTS"
        fi
    done
}

choose_weights
for encoder in $ENCODERS; do
    for seed in $(seeds_of "$encoder"); do
        name=PSB26_${encoder}_unsupervised_s$seed$SUFFIX
        if [ ! -f "ckpt/student/$name.pth" ]; then
            train_line "$name" "$encoder" targets.bank=$BANK terms.task.weight=0 train.seed="$seed"
            echo
        fi
    done
done | run_jobs

for encoder in $ENCODERS; do
    weight=$(chosen_weight "$encoder")
    for seed in $(seeds_of "$encoder"); do
        name=PSB26_${encoder}_unsupervised_s$seed$SUFFIX
        probe_jobs "$name"
        probe_jobs "$name" "$seed"
        student_job "PSB26_${encoder}_finetuned_s$seed$SUFFIX" "$encoder" test \
            init="ckpt/student/$name.pth" terms.alignment.weight=0 ${weight:+terms.task.weight=$weight} \
            train.seed="$seed"
    done
done | run_jobs

for data in $PROBED; do
    run $PYTHON -m scripts.make_tables --results "$RESULTS" --data "$data" --kind probe
done
