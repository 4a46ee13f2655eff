#!/bin/sh
# The paper's MNIST table on all 60,000 training images: train, attack, then write tables and figures beside this file.
# BENCH_DATA is the folder of MNIST (`bench prepare mnist`). Days on one core; goes on after an interruption.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ten="ece dverge trs adp gal cos_l2 cos_only ckae adaboost gradientboost"
both="trs_official trs_printed"
of="--dataset mnist --recipe cpu"
inside="--attack fgsm,bim,pgd,mim,apgd_dlr,apgd_ce --limit 1000"
nearest="--attack cw,ead --limit 500"
box="--suite figure2 --limit 500"

run() { bench run $of --threads 1 "$@"; }
column() { # method, seeds
  run --method $1 --seeds $2 $inside
  run --method $1 --seeds $2 --suite figure3-mnist --limit 1000
}
for method in $ten; do column $method 0; done
for method in $ten; do run --method $method --seeds 0 $nearest; done
for method in $both; do
  column $method 0
  run --method $method --seeds 0 $nearest
done
for method in ece dverge trs; do
  column $method 1-2
  run --method $method --seeds 1-2 $nearest
done
for method in $ten $both; do run --method $method --seeds 0 --attack autoattack --eps 0.3 --limit 1000; done
for method in $ten $both; do run --method $method --seeds 0 $box; done
for method in ece dverge trs; do run --method $method --seeds 1-2 $box; done
for method in gal adp dverge trs; do run --method $method --seeds 0 --attack pgd_1000 --limit 500; done
run --method smooth_only --seeds 0 $inside
# Whose members transfer little: trainings enough to tell.
for method in gal gradientboost adaboost ckae adp cos_only; do
  run --method $method --seeds 1-2 --suite figure3-mnist --limit 1000
done

sh "$here/tables.sh"
sh "$here/newer.sh"
bench db export -o "$here/printed.zip" --no-weights --method trs_printed
bench db export -o "$here/runs.zip" --no-weights
bench db export -o "$here/weights.zip" --recipe cpu --method dverge --seeds 0  # with those of `ece`, where it starts
bench db export -o "$here/weights-trs.zip" --recipe cpu --method trs --seeds 0
