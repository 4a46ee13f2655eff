#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

set -- --dataset cifar10 --recipe cpu --seeds 0
ten="-m ece -m paper"
bench table table1-cifar10 "$@" --limit 1000 --details --no-paper --format markdown > "$here/table1.md"
bench table table1-cifar10 "$@" --limit 1000 --details --no-paper --format latex > "$here/table1.tex"
bench table table1-cifar10 "$@" --limit 1000 --details --no-paper --format csv > "$here/table1.csv"
{
  bench table table1-cifar10 "$@" $ten --limit 1000 --paper --format markdown
  echo
  bench table "$@" $ten --attack cw,ead --limit 500 --paper --format markdown
} > "$here/published.md"
bench table "$@" $ten --attack autoattack --eps 0.01 --limit 1000 --format markdown > "$here/autoattack.md"
bench table --dataset cifar10 --recipe cpu -m ece -m dverge -m trs --seeds 0-2 --limit 1000 --paper \
  --format markdown > "$here/seeds.md"
bench table --dataset cifar10 --recipe cpu --seeds 0 -m trs --variants --attack pgd --split validation \
  --set data.validation=1000 --set training.limit=3840 --set training.epochs=4 --no-paper --format markdown > "$here/lambda.md"
bench heatmap "$@" --suite figure3-cifar10 --limit 1000 -o "$here/transferability.png" > /dev/null
bench audit > "$here/audit.txt"
