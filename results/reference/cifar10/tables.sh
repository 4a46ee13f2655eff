#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# Of the black-box suite the archive has three of seven radii, and the columns whose weights were at hand.
sh "$here/../table1.sh" "$here" cifar10 0.01 0.02,0.05,0.07 200 -m ece -m paper
bench table --dataset cifar10 --recipe cpu --seeds 0 -m trs --variants --attack pgd --split validation \
  --set data.validation=1000 --set training.limit=3840 --set training.epochs=4 --no-paper --format markdown > "$here/lambda.md"
