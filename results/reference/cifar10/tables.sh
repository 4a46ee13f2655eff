#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

set -- --dataset cifar10 --recipe cpu --seeds 0
bench table table1-cifar10 "$@" --limit 1000 --details --no-paper --format markdown > "$here/table1.md"
bench table table1-cifar10 "$@" --limit 1000 --details --no-paper --format latex > "$here/table1.tex"
bench table table1-cifar10 "$@" --limit 1000 --details --no-paper --format csv > "$here/table1.csv"
bench table table1-cifar10 "$@" -m ece -m paper --limit 1000 --paper --format markdown > "$here/published.md"
bench heatmap "$@" --suite figure3-cifar10 --limit 1000 -o "$here/transferability.png" > /dev/null
bench audit > "$here/audit.txt"
