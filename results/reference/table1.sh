#!/bin/sh
# The tables and figures that MNIST and CIFAR-10 have alike, out of the results that BENCH_RESULTS names; called by
# their tables.sh with the folder to write to, the data set, the radius of AutoAttack and the columns (-m METHOD …).
set -eu
here=$1 dataset=$2 eps=$3
shift 3
of="--dataset $dataset --recipe cpu"
first="$of --seeds 0"

for format in markdown:md latex:tex csv:csv; do
  bench table "table1-$dataset" $first --limit 1000 --details --no-paper --format "${format%:*}" > "$here/table1.${format#*:}"
done
{
  bench table "table1-$dataset" $first "$@" --limit 1000 --paper --format markdown
  echo
  bench table $first "$@" --attack cw,ead --limit 500 --paper --format markdown
} > "$here/published.md"
bench table $first "$@" --attack autoattack --eps "$eps" --limit 1000 --format markdown > "$here/autoattack.md"
bench table $of -m ece -m dverge -m trs --seeds 0-2 --limit 1000 --paper --format markdown > "$here/seeds.md"
bench heatmap $first --suite "figure3-$dataset" --limit 1000 -o "$here/transferability.png" > /dev/null
bench audit > "$here/audit.txt"
