#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

set -- --dataset mnist --recipe cpu --seeds 0
columns="-m ece -m paper -m trs_official"
bench table table1-mnist "$@" --limit 1000 --details --no-paper --format markdown > "$here/table1.md"
bench table table1-mnist "$@" --limit 1000 --details --no-paper --format latex > "$here/table1.tex"
bench table table1-mnist "$@" --limit 1000 --details --no-paper --format csv > "$here/table1.csv"
{
  bench table table1-mnist "$@" $columns --limit 1000 --paper --format markdown
  echo
  bench table "$@" $columns --attack cw,ead --limit 500 --paper --format markdown
} > "$here/published.md"
bench table "$@" $columns --attack autoattack --eps 0.3 --limit 1000 --format markdown > "$here/autoattack.md"
bench table --dataset mnist --recipe cpu -m ece -m dverge -m trs --seeds 0-2 --limit 1000 --paper \
  --format markdown > "$here/seeds.md"
bench heatmap "$@" --suite figure3-mnist --limit 1000 -o "$here/transferability.png" > /dev/null
bench audit > "$here/audit.txt"
