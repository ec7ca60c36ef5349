# The teacher of the Princeton tables, to be sourced after scripts/table_functions.sh:
#   TEACHER_WEIGHTS=PATH   ImageNet weights of torchvision's squeezenet1_0 (default: downloaded)
#   TEACHER_OVERRIDES      overrides for its configuration, a.b=c; RENEW=--overwrite exports it anew
TEACHER=${TEACHER:-${DATA}_squeezenet1_0_s0}
BANK=expt/teacher/$TEACHER.h5

# Train, test and export it. It is trained again where its row is there and its file is not, as in a
# fresh clone.
teacher_psb26() {
    if ! has_row "$TEACHER" test || [ ! -f "ckpt/teacher/$TEACHER.pth" ]; then
        run $PYTHON train_teacher.py $(files_of teacher psb26_teacher) \
            run.name="$TEACHER" data.name="$DATA" teacher.weights="${TEACHER_WEIGHTS:-imagenet}" \
            ${TEACHER_OVERRIDES:-}
        run $PYTHON test.py "ckpt/teacher/$TEACHER.pth" --results "$RESULTS"
    fi
    run $PYTHON export_teacher.py "ckpt/teacher/$TEACHER.pth" --output "$BANK" ${RENEW:-}
}
