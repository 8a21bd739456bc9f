#!/usr/bin/env bash
# Trains in a pod of RunPod, then stops the pod, whether the training succeeded or failed. It never deletes anything.
#   deploy/runpod/start.sh /workspace/photos.zip --trigger-word TOK    # the arguments of script/train
# Without arguments, as the start command of a pod, it takes them from the pod's environment:
#   DATASET=/workspace/photos.zip TRIGGER_WORD=TOK TRAIN_FLAGS="--steps 1500"
# OUTPUT names the tar (default: /workspace/trained_model.tar); the log is beside it. If the tar is there already,
# nothing is trained and the pod goes on, so that a pod that is started again can be used. A training that was
# interrupted continues from its last checkpoint; what it had learned until then is in trained_model-interrupted.tar.
# Quotes in TRAIN_FLAGS keep words together, as in a shell; nothing in it is expanded.
set -uo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
output="${OUTPUT:-/workspace/trained_model.tar}"
log="${output%.tar}.log"

if [ $# = 0 ]; then
    if [ -z "${DATASET:-}" ]; then
        echo "error: DATASET is not set: expected the path of an archive or a folder of images" >&2
        exit 2
    fi
    if ! words="$(xargs -r -n 1 printf '%s\n' <<<"${TRAIN_FLAGS:-}")"; then
        echo "error: TRAIN_FLAGS is $TRAIN_FLAGS: expected flags of script/train, with each quote closed on its line" >&2
        exit 2
    fi
    flags=()
    [ -z "$words" ] || mapfile -t flags <<<"$words"
    set -- "$DATASET" ${TRIGGER_WORD:+--trigger-word "$TRIGGER_WORD"} ${flags[@]+"${flags[@]}"}
fi
for flag in "$@"; do
    if [[ $flag == --ou* ]]; then # an abbreviation, too
        echo "error: $flag is given: expected the variable OUTPUT instead, as the log and the next start go by it" >&2
        exit 2
    fi
done
if [ -d "$output" ]; then
    echo "error: OUTPUT is the folder $output: expected the path of a tar" >&2
    exit 2
fi
if [ -e "$output" ]; then
    echo "$output is there already: nothing is trained, and the pod is not stopped"
    exit 0
fi
if ! touch "$log"; then
    echo "error: $log cannot be written: expected OUTPUT in a folder of the volume" >&2
    exit 2
fi

# A pod that is stopped gets SIGTERM only here: the training then saves a checkpoint.
training=
stopped=
trap 'stopped=yes; [ -z "$training" ] || kill -TERM "$training" 2>/dev/null' TERM INT
exec 3> >(tee -a "$log")
logging=$!
"$root/script/train" "$@" --output "$output" --resume >&3 2>&1 3>&- &
training=$!
exec 3>&-
while kill -0 "$training" 2>/dev/null; do wait "$training"; done
wait "$training"
code=$?
wait "$logging" # until all lines are written
echo "the training ended with exit code $code; its log is $log" | tee -a "$log"
if [ -n "$stopped" ] && [ -f "$output" ]; then # else the next start would take it for the result
    mv -f "$output" "${output%.tar}-interrupted.tar"
    echo "the LoRA so far is ${output%.tar}-interrupted.tar; the same command continues the training" | tee -a "$log"
fi

if [ -z "${RUNPOD_POD_ID:-}" ]; then
    echo "this is no pod of RunPod (RUNPOD_POD_ID is not set): it is not stopped"
elif runpodctl stop pod "$RUNPOD_POD_ID" || runpodctl pod stop "$RUNPOD_POD_ID"; then
    echo "the pod $RUNPOD_POD_ID stops"
else
    echo "error: the pod $RUNPOD_POD_ID could not be stopped, and still costs money: stop it at console.runpod.io" >&2
fi
exit "$code"
