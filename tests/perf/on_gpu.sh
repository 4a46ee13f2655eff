#!/usr/bin/env bash
# The measurements of docs/performance.md that need a GPU, in parts of a few minutes, what is worth most first.
#
#   tests/perf/on_gpu.sh list           the parts, and which are done
#   tests/perf/on_gpu.sh PART…          these parts
#   tests/perf/on_gpu.sh all            all that are not done
#
# What a part prints is kept in OUT/PART.txt (OUT=results/perf). One that does not end within LIMIT seconds (600) is cut
# short and not done: the same command takes it up again, a training from its last epoch. DATA=, DEVICE=, DATASET= …
# change the rest; BENCH= and PYTHON= name the programs where no environment is activated: BENCH=.venv/bin/bench
set -euo pipefail

out=${OUT:-results/perf} limit=${LIMIT:-600}
bench=${BENCH:-bench} python=${PYTHON:-python}
data=${DATA:-data} device=${DEVICE:-cuda} dataset=${DATASET:-cifar10} model=${MODEL:-resnet20}
epochs=${EPOCHS:-20} images=${IMAGES:-10000} batch=${BATCH:-1000} step_batch=${STEP_BATCH:-128} eps=${EPS:-0.02}
few_images=${FEW_IMAGES:-200} compile_epochs=${COMPILE_EPOCHS:-5}
methods=${METHODS:-} # "--method trs --method ece"; all of them unless given
first=${FIRST:---method trs --method trs_official --method ece --method dverge}
parts=(tests steps steps-tf32 streams pgd attacks-pgd attacks-few attacks-eager compile compile-off recipe jobs training
  attacks attacks-bfloat16 table memory)

steps=(perf training --data "$data" --dataset "$dataset" --model "$model" --batch "$step_batch" --device "$device")
selected=(--method ece --dataset "$dataset" --model "$model" --set training.epochs="$epochs" --attack pgd --eps "$eps"
  --device "$device" --data "$data" --results "$out/trained")
few=(--timed "$few_images" --attack pgd --attack apgd_ce) # where starting operations takes longer than computing
compiled=(run --method ece --dataset "$dataset" --model "$model" --set training.epochs="$compile_epochs" --attack fgsm
  --eps "$eps" --device "$device" --data "$data") # the seconds of its epochs stand in train.jsonl
probe=(--dataset "$dataset" --device "$device" --data "$data" --dry-run --probe --results "$out/none")

measure() { # PART COMMAND…: run it, show it, keep it; a FAIL (exit code 1) is a finding, and the part is done
  local part=$1 code=0
  shift
  printf '\n$ %s\n' "$*" | tee "$out/$part.txt"
  timeout --signal=INT --kill-after=30 "$limit" "$@" 2>&1 | tee -a "$out/$part.txt" || code=$?
  if [ "$code" -gt 1 ]; then
    echo "exit code $code: not done" | tee -a "$out/$part.txt"
    return 1
  fi
  [ "$code" = 0 ] || echo "exit code 1" | tee -a "$out/$part.txt"
  echo done >> "$out/$part.txt"
}

attack() { # PART OPTION…: on the ensemble of the part pgd, which is trained first where it is not there
  local part=$1 run
  shift
  run=$(timeout --signal=INT --kill-after=30 "$limit" "$bench" run "${selected[@]}" --json 2>"$out/trained.log" |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["runs"][0])') || true
  if [ -z "$run" ]; then
    echo "no ensemble was trained, so nothing can be attacked: $out/trained.log says why" >&2
    return 1
  fi
  measure "$part" "$bench" perf attacks --run "$run" --device "$device" --data "$data" --results "$out/trained" \
    --eps "$eps" --images "$images" --batch "$batch" "$@"
}

part() {
  # shellcheck disable=SC2086
  case $1 in
    tests) measure tests "$python" -m pytest -q -m "gpu or not slow" tests/models/test_trust.py \
      tests/data/test_batches.py tests/jobs/test_measuring.py tests/training/test_captured.py \
      tests/training/test_streams.py tests/attacks/test_replayed.py ;; # kernels, recorded steps, streams and attacks
    steps) measure steps "$bench" "${steps[@]}" $first ;;        # a step of TRS, and of the authors' code
    steps-tf32) measure steps-tf32 "$bench" "${steps[@]}" --set training.precision=tf32 $first ;;
    streams) measure streams "$bench" "${steps[@]}" --one-stream $first ;; # beside the part steps
    pgd) measure pgd "$bench" run "${selected[@]}" ;;            # its seconds stand in the record of the evaluation
    attacks-pgd) attack attacks-pgd --timed "$images" --attack pgd ;; # beside it, the libraries and the floors
    attacks-few) images=$few_images batch=$few_images attack attacks-few "${few[@]}" ;;
    attacks-eager) images=$few_images batch=$few_images attack attacks-eager "${few[@]}" --no-capture ;; # beside the part attacks-few
    compile) measure compile "$bench" "${compiled[@]}" --results "$out/compiled" --compile on ;;
    compile-off) measure compile-off "$bench" "${compiled[@]}" --results "$out/uncompiled" ;; # beside the part compile
    recipe) measure recipe "$bench" run --method trs "${probe[@]}" ;; # how long the whole recipe would take
    jobs) measure jobs "$bench" perf jobs --data "$data" --device "$device" --at-once 2 --at-once 4 \
      --results "$out/trained" ;; # notes the best for this card
    training) measure training "$bench" "${steps[@]}" $methods ;;
    attacks) attack attacks --timed "$batch" --steps 50 ;;
    attacks-bfloat16) attack attacks-bfloat16 --timed "$batch" --attack pgd --precision bfloat16 ;;
    table) measure table "$bench" run --method paper "${probe[@]}" ;;
    memory) measure memory "$bench" perf memory --dataset "$dataset" --model "$model" --batch "$step_batch" \
      --device "$device" $methods ;;
    *)
      echo "there is no part $1; there are: ${parts[*]}" >&2
      exit 2
      ;;
  esac
}

is_done() { [ "$(tail -n 1 "$out/$1.txt" 2>/dev/null)" = done ]; }

if [ $# = 0 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 2
fi
if [ "$1" = list ]; then
  for name in "${parts[@]}"; do
    if is_done "$name"; then echo "$name  done"; else echo "$name"; fi
  done
  exit 0
fi
mkdir -p "$out"
chosen=("$@") failed=0
if [ "$1" = all ]; then
  chosen=()
  for name in "${parts[@]}"; do is_done "$name" || chosen+=("$name"); done
fi
for name in "${chosen[@]}"; do part "$name" || failed=1; done
exit "$failed"
