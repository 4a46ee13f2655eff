#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archives, of make.sh those that it made.
# archives: runs more papers report
set -eu
here=$(cd "$(dirname "$0")" && pwd)
columns="--method paper --method ece --dataset digits"
of="$columns --seeds 0-2"

{
  bench plot predict --dataset digits -o "$here/predict.png"
  bench heatmap $of --suite core -o "$here/transferability.png" > /dev/null
  bench plot budget $of --suite core -o "$here/budget.png"
  bench plot blackbox $of -o "$here/blackbox.png"
  bench plot theory $columns -o "$here/theory.png"
} &  # beside the tables
bench table table1 $of --details --format markdown > "$here/table1.md"
bench table table1 $of --details --format latex > "$here/table1.tex"
bench table table1 $of --details --format csv > "$here/table1.csv"
bench table figure2 $of --format markdown > "$here/blackbox.md"
bench table figure2 $of --format latex > "$here/blackbox.tex"
report="--method trs_report --method trs_report_pretrained --dataset digits"
singles="--method at_pgd_linf --method at_pgd_l2 --method at_fgsm"
bench table $singles $report --attack pgd,pgd_l2 --seeds 0-2 --format markdown > "$here/report.md"
bench plot curves $report --seeds 0 --set data.validation=200 --monitor pgd:eps=0.1,steps=10 \
  --monitor pgd_l2:eps=0.5,steps=10 -o "$here/report.png"
bench audit > "$here/audit.txt"
wait $!
