#!/usr/bin/env bash
# Every measurement of docs/performance.md that needs a GPU, one after another; what they print is kept in files.
#
#   tests/perf/on_gpu.sh [FOLDER]     FOLDER: results/perf unless given; DATA=, DEVICE=, DATASET= … change the rest
set -euo pipefail

out=${1:-results/perf}
bench=${BENCH:-bench}
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
if [ "$device" != cpu ]; then measure tests python -m pytest -q tests/models/test_trust.py tests/data/test_batches.py; fi

# An ensemble to attack.
trained=$out/trained
measure train "$bench" run --method ece --dataset "$dataset" --model "$model" --set training.epochs="$epochs" --attack fgsm \
  --eps "$eps" --device "$device" --data "$data" --results "$trained"
run=$(basename "$(ls -d "$trained"/runs/* | head -n 1)")

# The seconds of PGD-50 over all test images stand in its record; beside it, the libraries and the floors.
attacked=(--run "$run" --device "$device" --data "$data" --results "$trained" --eps "$eps" --images "$images")
measure pgd "$bench" run --method ece --dataset "$dataset" --model "$model" --set training.epochs="$epochs" --attack pgd \
  --eps "$eps" --device "$device" --data "$data" --results "$trained"
measure attacks-pgd "$bench" perf attacks "${attacked[@]}" --timed "$images" --batch "$batch" --attack pgd
measure attacks "$bench" perf attacks "${attacked[@]}" --timed "$batch" --batch "$batch" --steps 50
measure attacks-bfloat16 "$bench" perf attacks "${attacked[@]}" --timed "$batch" --batch "$batch" --attack pgd --precision bfloat16

# Steps of all methods, and the public TRS code's beside ours.
# shellcheck disable=SC2086
measure training "$bench" perf training --dataset "$dataset" --model "$model" --batch "$step_batch" --device "$device" $methods

# How long the whole recipe and the whole table would take, from measured steps.
measure recipe "$bench" run --method trs --dataset "$dataset" --device "$device" --data "$data" --dry-run --results "$out/none"
measure table "$bench" run --method paper --dataset "$dataset" --device "$device" --data "$data" --dry-run --results "$out/none"

# Several small jobs on one device; memory; slopes.
measure jobs "$bench" perf jobs --device "$device" --at-once 2 --at-once 4
measure memory "$bench" perf memory --dataset "$dataset" --model "$model" --batch "$step_batch" --device "$device" $methods
measure growth "$bench" perf growth --device "$device" -o "$out/growth.png"
