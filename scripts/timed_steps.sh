# Steps that all together end in time and that another call goes on with; to be sourced after LIMIT
# (seconds for everything, from the start of the script), OUT (folder of what remains) and STEPS (their
# names) are set. A function `missing NAME` prints what an unfinished step lacks, or nothing.
CLOSING=7 # seconds of LIMIT, to end what runs and to sum up
declare -A STATUS
CHILD="" CODE=0

# Runs a command as long as there is time, in its own group of processes, and notes how it ended. Output
# goes to $OUT/logs/NAME.log too. LIMIT_NAME in the environment takes the place of the seconds.
step() { # name, seconds at most, command
    local name=$1 own=LIMIT_${1^^} left=$((LIMIT - SECONDS - CLOSING)) begun=$SECONDS code=0 seconds
    seconds=${!own:-$2}
    shift 2
    if [ -n "${DRY:-}" ]; then
        case "$*" in *scripts/table_*) "$@" ;; *) echo "$@" ;; esac
        return
    fi
    if ((left < seconds)); then seconds=$left; fi
    STATUS[$name]="not begun, no time was left"
    if ((seconds < 1)); then return 124; fi
    echo "== $name, $seconds s at most"
    STATUS[$name]="stopped"
    timeout -k 5 "$seconds" "$@" > >(tee -a "$OUT/logs/$name.log") 2>&1 &
    CHILD=$!
    wait $CHILD || code=$?
    CHILD=""
    case $code in
        0) STATUS[$name]="done in $((SECONDS - begun)) s" ;;
        124 | 137) STATUS[$name]="stopped after $((SECONDS - begun)) s" ;;
        *) STATUS[$name]="failed with code $code, see $OUT/logs/$name.log" CODE=1 ;;
    esac
    return $code
}

# A step that is left out once it has ended, be it with code 1: what it measured or tested failed.
# Not 0 if it did not end now.
once() { # name, seconds at most, command
    local code=0
    if [ -f "$OUT/done/$1" ]; then
        STATUS[$1]="$(<"$OUT/done/$1"), before"
        return 1
    fi
    step "$@" || code=$?
    if ((code > 1)) || [ -n "${DRY:-}" ]; then return $code; fi
    echo "${STATUS[$1]}" >"$OUT/done/$1"
}

summary() {
    local name part lacking
    echo "== $SECONDS of $LIMIT s; results are in $OUT"
    for name in wheels $STEPS; do
        for part in "${name}_data" "$name"; do
            if [ -z "${STATUS[$part]:-}" ]; then continue; fi
            lacking=$(missing "$part")
            echo "$part: ${STATUS[$part]}${lacking:+; missing: }$lacking"
        done
    done
}

# At the end of the script, also when it is told to stop: code 1 where a step failed, 124 where one is
# missing.
finish() {
    local name
    trap '' INT TERM HUP
    if [ -n "$CHILD" ]; then
        kill "$CHILD"
        wait "$CHILD"
    fi
    for name in $STEPS; do
        case ${STATUS[$name]:=not begun} in stopped* | not*) CODE=$((CODE ? CODE : 124)) ;; esac
    done
    summary >"$OUT/summary.txt"
    cat "$OUT/summary.txt"
    exit $CODE
}

if [ -z "${DRY:-}" ]; then
    mkdir -p "$OUT/done" "$OUT/logs"
    trap 'exit 124' INT TERM HUP
    trap finish EXIT
fi
