#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

set -- -m "DVERGE, authors" -m "baseline of DVERGE" -d cifar10
bench table core "$@" --limit 1000 --no-paper --format markdown > "$here/core.md"
bench table table1 "$@" --limit 1000 --paper --format markdown > "$here/published.md"
echo >> "$here/published.md"
bench table "$@" --attack cw,ead --limit 500 --paper --format markdown >> "$here/published.md"
bench heatmap "$@" --limit 1000 -o "$here/transferability.png" > /dev/null
bench audit > "$here/audit.txt"
