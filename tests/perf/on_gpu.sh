#!/usr/bin/env bash
# Every measurement of docs/performance.md that needs a GPU, one after another; what they print is kept in files.
#
#   tests/perf/on_gpu.sh [FOLDER]     FOLDER: results/perf unless given; DATA=, DEVICE=, DATASET= … change the rest
# BENCH= and PYTHON= name them where no environment is activated: BENCH=.venv/bin/bench PYTHON=.venv/bin/python
set -euo pipefail

out=${1:-results/perf}
bench=${BENCH:-bench} python=${PYTHON:-python}
data=${DATA:-data} device=${DEVICE:-cuda} dataset=${DATASET:-cifar10} model=${MODEL:-resnet20}
epochs=${EPOCHS:-20} images=${IMAGES:-10000} batch=${BATCH:-1000} step_batch=${STEP_BATCH:-128} eps=${EPS:-0.02}
methods=${METHODS:-} # "--method trs --method ece"; all of them unless given
mkdir -p "$out"

measure() { # NAME COMMAND…: run it, show it, keep it; a FAIL (exit code 1) does not end the others
  local name=$1
  shift
  printf '\n$ %s\n' "$*" | tee "$out/$name.txt"
  "$@" 2>&1 | tee -a "$out/$name.txt" || echo "exit code $?" | tee -a "$out/$name.txt"
}

# Kernels against torch's own on the device; batches; nothing else needs a GPU to be tested.
if [ "$device" != cpu ]; then measure tests "$python" -m pytest -q tests/models/test_trust.py tests/data/test_batches.py; fi

# An ensemble to attack; the seconds of PGD-50 over all test images stand in the record of the evaluation.
trained=$out/trained
selected=(--method ece --dataset "$dataset" --model "$model" --set training.epochs="$epochs" --attack pgd --eps "$eps")
measure pgd "$bench" run "${selected[@]}" --device "$device" --data "$data" --results "$trained"
run=$("$bench" run "${selected[@]}" --device "$device" --data "$data" --results "$trained" --json 2>/dev/null |
  "$python" -c 'import json, sys; print(json.load(sys.stdin)["runs"][0])' || true)
if [ -z "$run" ]; then
  echo "no ensemble was trained, so nothing can be attacked: $out/pgd.txt says why" >&2
  exit 1
fi

# Beside it, the libraries and the floors.
attacked=(--run "$run" --device "$device" --data "$data" --results "$trained" --eps "$eps" --images "$images")
measure attacks-pgd "$bench" perf attacks "${attacked[@]}" --timed "$images" --batch "$batch" --attack pgd
measure attacks "$bench" perf attacks "${attacked[@]}" --timed "$batch" --batch "$batch" --steps 50
measure attacks-bfloat16 "$bench" perf attacks "${attacked[@]}" --timed "$batch" --batch "$batch" --attack pgd --precision bfloat16

# Steps of all methods, and the public TRS code's beside ours.
# shellcheck disable=SC2086
measure training "$bench" perf training --data "$data" --dataset "$dataset" --model "$model" --batch "$step_batch" --device "$device" $methods

# How long the whole recipe and the whole table would take, from measured steps.
probe=(--dataset "$dataset" --device "$device" --data "$data" --dry-run --probe --results "$out/none")
measure recipe "$bench" run --method trs "${probe[@]}"
measure table "$bench" run --method paper "${probe[@]}"

# Several small jobs on one device; memory.
measure jobs "$bench" perf jobs --data "$data" --device "$device" --at-once 2 --at-once 4
measure memory "$bench" perf memory --dataset "$dataset" --model "$model" --batch "$step_batch" --device "$device" $methods
