#!/bin/sh
# The tables and figures that MNIST and CIFAR-10 have alike, out of the results that BENCH_RESULTS names; called by
# their tables.sh with the folder to write to, the data set, the radius of AutoAttack, the radii of the black-box suite and
# its number of images, and the columns (-m METHOD …).
set -eu
here=$1 dataset=$2 eps=$3 radii=$4 images=$5
shift 5
of="--dataset $dataset --recipe cpu"
first="$of --seeds 0"
box="$first --limit $images --set blackbox.budgets.$dataset=[$radii]"

for format in markdown:md latex:tex csv:csv; do
  bench table "table1-$dataset" $first "$@" --limit 1000 --details --no-paper --format "${format%:*}" > "$here/table1.${format#*:}"
done
{
  bench table "table1-$dataset" $first "$@" --limit 1000 --paper --format markdown
  echo
  bench table $first "$@" --attack cw,ead --limit 500 --paper --format markdown
} > "$here/published.md"
bench table $first "$@" --attack autoattack --eps "$eps" --limit 1000 --format markdown > "$here/autoattack.md"
# What each of the two terms of TRS's loss does.
bench table $first -m trs -m cos_only -m smooth_only --attack bim,pgd,mim,apgd_dlr,apgd_ce --limit 1000 --no-paper --format markdown \
  > "$here/terms.md"
bench table $of -m ece -m dverge -m trs --seeds 0-2 --limit 1000 --paper --format markdown > "$here/seeds.md"
bench table figure2 $box "$@" --format markdown > "$here/blackbox.md"
bench plot blackbox $box -o "$here/blackbox.png" > /dev/null
bench heatmap $first --suite "figure3-$dataset" --limit 1000 -o "$here/transferability.png" > /dev/null
bench audit > "$here/audit.txt"
