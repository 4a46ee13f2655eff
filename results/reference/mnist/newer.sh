#!/bin/sh
# The table of TRS as printed, which learned nothing. Its archive is apart from the others: one answer for every image stands
# against every attack, and would lead where the attack leaves little of all others.
# archives: printed
set -eu
here=$(cd "$(dirname "$0")" && pwd)

bench table --dataset mnist --recipe cpu --seeds 0 -m trs -m trs_official -m trs_printed --attack pgd,apgd_ce --limit 1000 \
  --no-paper --format markdown > "$here/printed.md"
