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
# On all 10,000 images, of which the tables above have 1,000.
{
  echo
  bench table "$@" --attack pgd --eps 0.01 --paper --format markdown
} >> "$here/published.md"
bench table linf-8-255 -m "AdvOAP, authors" -d cifar10 --limit 1000 --format markdown > "$here/advoap.md"
{
  bench table "$@" --attack autoattack --eps 0.01,0.02 --limit 1000 --format markdown
  echo
  bench table -m "AdvOAP, authors" -d cifar10 --seeds 0 --attack autoattack --eps 8/255 --limit 200 --format markdown
  echo
  bench table -m "TRADES, authors" -d mnist --attack autoattack --eps 0.3 --format markdown
} > "$here/autoattack.md"
bench heatmap "$@" --limit 1000 -o "$here/transferability.png" > /dev/null
set -- -m "DVERGE, authors" -m "AdvOAP, authors" -d cifar10 --recipe cpu --limit 200
radii="blackbox.budgets.cifar10=[0.02,0.05,0.07]"
{
  bench table figure2 "$@" -m "baseline of DVERGE" --set "$radii" --format markdown
  echo
  bench table figure2 "$@" --set "blackbox.budgets.cifar10=[0.02,0.05]" --set 'blackbox.method="baseline of DVERGE"' \
    --format markdown
} > "$here/blackbox.md"
bench plot blackbox "$@" -m "baseline of DVERGE" --set "$radii" -o "$here/blackbox.png" > /dev/null
bench audit > "$here/audit.txt"
