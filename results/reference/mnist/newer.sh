#!/bin/sh
# The table of TRS as printed, which learned nothing: `bench audit` calls its results invalid (`guesses`). Its archive is
# apart from the others.
# archives: printed
set -eu
here=$(cd "$(dirname "$0")" && pwd)

bench table --dataset mnist --recipe cpu --seeds 0 -m trs -m trs_official -m trs_printed --attack pgd,apgd_ce --limit 1000 \
  --no-paper --format markdown > "$here/printed.md"
