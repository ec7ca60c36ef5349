# What the scripts of the tables share; to be sourced in the root of the project, after DATA (name of
# the set), RECIPE (what the recipes' names begin with, before the encoder), SETS (files of
# scripts/configs/sets that are laid over them, in this order) and EPOCHS_USUAL (of the students;
# empty: as each configuration says) are set. All of them take from the environment:
#   ENCODERS, SEEDS        what to run; SEEDS_SLOW for dgcnn, curvenet and pointnet2_msg
#   CHOOSE                 encoders whose baseline chooses its own task weight; empty: the one of the
#                          configuration, for all
#   EPOCHS                 of all students; other numbers than usual make rows of their own
#   JOBS                   runs side by side, one CPU thread each; 1 on a GPU
#   STUDENT_OVERRIDES      overrides for all students, a.b=c, with spaces between them
#   ONE_PROCESS=1          runs one after another in one process, which starts PyTorch only once: for
#                          a GPU, on which a short run takes less time than that
#   DRY=1                  print the commands only
#   RESULTS=FILE           another table: an empty one runs everything anew
#   LOGS=FOLDER            where the output of the runs goes, expt/logs
# A second call goes on where the first one stopped; finished rows are not run again.
PYTHON=${PYTHON:-python}
EPOCHS=${EPOCHS:-$EPOCHS_USUAL}
CHOOSE=${CHOOSE-pointnet pointnet2_ssg}
SEEDS=${SEEDS:-0 1 2}
SEEDS_SLOW=${SEEDS_SLOW:-0}
JOBS=${JOBS:-2}
RESULTS=${RESULTS:-expt/results.csv}
LOGS=${LOGS:-expt/logs}
export LOGS
SUFFIX=${SUFFIX:-}
if [ "$EPOCHS" != "$EPOCHS_USUAL" ]; then SUFFIX=${SUFFIX}_e$EPOCHS; fi
THREADS=0
if [ "$JOBS" -gt 1 ]; then THREADS=1; fi

for encoder in ${ENCODERS:-}; do
    recipe=scripts/configs/recipes/$RECIPE$encoder.yaml
    if [ ! -f "$recipe" ]; then
        echo "unknown encoder $encoder: there is no $recipe" >&2
        exit 2
    fi
done

run() {
    if [ -n "${DRY:-}" ]; then echo "$@"; else "$@"; fi
}

has_row() { # run name, split, beginning of the protocol, data set
    [ -f "$RESULTS" ] && grep -E ",$1,${4:-$DATA},$2,\"?${3:-}" "$RESULTS" | grep -v "vote mean" >/dev/null
}

files_of() { # recipe sets: names of scripts/configs
    local set
    echo "scripts/configs/recipes/$1.yaml"
    for set in "${@:2}"; do echo "scripts/configs/sets/$set.yaml"; done
}

seeds_of() { # encoder
    case $1 in
        pointnet | pointnet2_ssg) echo "$SEEDS" ;;
        *) echo "$SEEDS_SLOW" ;;
    esac
}

# Jobs are lines "name<tab>command", the name being that of the log.
train_line() { # name encoder overrides
    local name=$1 encoder=$2 exception=""
    shift 2
    # the small sets choose bfloat16, which makes CurveNet no faster on a CPU
    if [ "$encoder" = curvenet ]; then exception=train.amp=none; fi
    printf '%s\t%s' "$name" "$PYTHON train_student.py"
    printf ' %s' $(files_of "$RECIPE$encoder" $SETS) $exception run.name="$name" \
        ${EPOCHS:+train.epochs=$EPOCHS} run.threads=$THREADS "$@" ${STUDENT_OVERRIDES:-}
}

# Trained, then tested on the split.
student_job() { # name encoder split overrides
    local name=$1 encoder=$2 split=$3
    shift 3
    if has_row "$name" "$split" "last epoch"; then return; fi
    train_line "$name" "$encoder" "$@"
    echo " && $PYTHON test.py ckpt/student/$name.pth --split $split" \
        "--threads $THREADS --results $RESULTS"
}

run_jobs() { # reads jobs, runs $JOBS of them at a time; output goes to $LOGS
    if [ -n "${DRY:-}" ]; then cut -f2; return; fi
    mkdir -p "$LOGS"
    if [ -n "${ONE_PROCESS:-}" ]; then
        PYTHON=$PYTHON $PYTHON -m scripts.one_process --logs "$LOGS"
        return
    fi
    xargs -d '\n' -P "$JOBS" -I LINE bash -c '
        log=$LOGS/$(cut -f1 <<<"$1").log
        if bash -c "$(cut -f2 <<<"$1")" >"$log" 2>&1; then tail -n 1 "$log"
        else echo "failed: see $log"; tail -n 1 "$log"; exit 255; fi
    ' _ LINE
}

# The task weight of the baselines, 0.1 or 1, is chosen on a fifth of train that is held out: for the
# encoders in $CHOOSE by themselves, for the others (trained by SGD, like PointNet) with PointNet.
choose_weights() {
    local encoder weight
    if [ -z "$CHOOSE" ]; then return; fi
    for encoder in $(for encoder in $ENCODERS; do chooser_of "$encoder"; done | sort -u); do
        for weight in 0.1 1; do
            student_job "${DATA}_${encoder}_choose_w$weight$SUFFIX" "$encoder" val \
                data.name=$DATA terms.alignment.weight=0 terms.task.weight=$weight protocol.val_fraction=0.2
        done
    done | run_jobs
}

chooser_of() { # encoder
    case " $CHOOSE " in *" $1 "*) echo "$1" ;; *) echo pointnet ;; esac
}

chosen_weight() { # encoder
    local chooser
    if [ -z "$CHOOSE" ]; then return; fi
    chooser=$(chooser_of "$1")
    if [ -n "${DRY:-}" ]; then echo CHOSEN; else
        $PYTHON -m scripts.choose_weight --results "$RESULTS" --data "$DATA" --model "$chooser" \
            ${EPOCHS:+--epochs "$EPOCHS"}
    fi
}

# Every student of $ENCODERS without and with distillation from $BANK, one seed after the other.
compare_jobs() {
    local encoder weight seed
    for encoder in $ENCODERS; do
        weight=$(chosen_weight "$encoder")
        for seed in $(seeds_of "$encoder"); do
            student_job "${DATA}_${encoder}_baseline_s$seed$SUFFIX" "$encoder" test \
                data.name="$DATA" terms.alignment.weight=0 ${weight:+terms.task.weight=$weight} train.seed="$seed"
            student_job "${DATA}_${encoder}_pointmcd_s$seed$SUFFIX" "$encoder" test \
                data.name="$DATA" targets.bank="$BANK" train.seed="$seed"
        done
    done
}
