#!/bin/sh
# The reference results on digits: train, attack, then write tables and figures beside this file.
# Needs the built-in images only; eight hours on one core, and goes on after an interruption.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
columns="--method paper --method ece --dataset digits"
of="$columns --seeds 0-2"
# Ids of the runs of these seeds, first and last.
print_ids='import json, sys; print(*[run["id"] for run in json.load(sys.stdin) if int(sys.argv[1]) <= run["seed"] <= int(sys.argv[2])])'
ids() { bench list runs --json | python3 -c "$print_ids" $1 $2; }

bench run $of --suite full --threads 1 "$@"
# Two more ensembles a column, for what theory predicts, then a close look at each of the first three.
bench run $columns --seeds 3-4 --suite figure3-digits --threads 1 "$@"
bench theory $(ids 0 4) --threads 1 > /dev/null
for id in $(ids 0 2); do
  bench audit $id --deep --threads 1 > /dev/null || true
done
# What statements of the paper ask beyond them: TRS without its cosine, and an attack of 1,000 steps.
bench run --method smooth_only --dataset digits --seeds 0-2 --suite core --threads 1 "$@"
bench run -m dverge -m trs -m adp -m gal --dataset digits --seeds 0 --attack pgd_1000 --threads 1 "$@"
# The student report's tables, and its curves from a training with held-out images.
of_report="--method at_fgsm --method at_pgd_l2 --method at_pgd_linf --method trs_report_pretrained --method trs_report"
bench run $of_report --dataset digits --seeds 0-2 --attack pgd,pgd_l2 --threads 1 "$@"
bench run -m trs_report_pretrained -m trs_report --dataset digits --seeds 0 --attack pgd --set data.validation=200 \
  --monitor pgd:eps=0.1,steps=10 --monitor pgd_l2:eps=0.5,steps=10 --threads 1 "$@"

sh "$here/tables.sh"
bench db export -o "$here/runs.zip" --no-weights $(ids 0 2) $(ids 1000000 1999999)  # surrogates too
bench db export -o "$here/more.zip" --no-weights --seeds 3-4
bench db export -o "$here/weights.zip" --seeds 0

# Defences beyond the paper, one seed, and AutoAttack on everything.
defences=$(for each in adv_oap mrboost mrboost_mce fasten adv_fasten lotos igat_adp igat_dverge barre deg deg_pdd parl aute drt
  do echo "--method $each"; done)
newer="$defences --dataset digits --seeds 0"
bench run $newer --suite full --threads 1 "$@"
bench run $columns $defences --seeds 0 --suite autoattack --threads 1 "$@"
for id in $(bench list runs --json | python3 -c "$print_ids" 0 0); do
  bench theory $id --threads 1 > /dev/null
  bench audit $id --deep --threads 1 > /dev/null || true
done
sh "$here/newer.sh"
bench db export -o "$here/autoattack.zip" --no-weights $columns --seeds 0
bench db export -o "$here/defences.zip" --no-weights $newer
