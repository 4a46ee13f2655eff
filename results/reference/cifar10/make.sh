#!/bin/sh
# The paper's CIFAR-10 table by a recipe for CPUs: train, attack, then write tables and figures beside this file.
# BENCH_DATA is the folder of CIFAR-10 (`bench prepare cifar10`). Days on one core; goes on after an interruption.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ten="ece adp ckae adaboost gradientboost cos_only gal cos_l2 dverge trs"
of="--dataset cifar10 --recipe cpu"
inside="--attack fgsm,bim,pgd,mim,apgd_dlr,apgd_ce --limit 1000"

run() { bench run $of --threads 1 "$@"; }
column() { # method, seeds
  run --method $1 --seeds $2 $inside
  run --method $1 --seeds $2 --suite figure3-cifar10 --limit 1000
}
# The weight λb of TRS, on images held out of the training set (never on test images), from a shorter training.
for lambda in 0.1 0.2 0.5 1 2.5; do
  run --method trs --seeds 0 --attack pgd --split validation --set data.validation=1000 \
    --set training.limit=3840 --set training.epochs=4 --set methods.trs.lambda_b=$lambda
done
for method in $ten; do column $method 0; done
for method in ece dverge trs; do column $method 1-2; done
for method in $ten; do run --method $method --seeds 0 --attack autoattack --eps 0.01 --limit 1000; done
for method in $ten; do run --method $method --seeds 0 --attack cw,ead --limit 500; done
box="--suite figure2 --limit 200 --set blackbox.budgets.cifar10=[0.02,0.05,0.07]"
for method in $ten; do run --method $method --seeds 0 $box; done
for method in ece dverge trs; do run --method $method --seeds 1-2 $box; done
for method in gal adp dverge trs; do run --method $method --seeds 0 --attack pgd_1000 --limit 500; done
run --method smooth_only --seeds 0 $inside

sh "$here/tables.sh"
bench db export -o "$here/runs.zip" --no-weights
bench db export -o "$here/weights.zip" --recipe cpu --method dverge --seeds 0  # with those of `ece`, where it starts
bench db export -o "$here/weights-trs.zip" $(bench list runs --json | python3 -c '
import json, sys
print(*[run["id"] for run in json.load(sys.stdin) if (run["method"], run["seed"], run["recipe"]) == ("trs", 0, "cpu")])')
