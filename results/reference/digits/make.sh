#!/bin/sh
# The reference results on digits: train, attack, then write tables and figures beside this file.
# Needs the built-in images only; an hour and a half on one core, and goes on after an interruption.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
of="--method paper --method ece --dataset digits --seeds 0-2"
bench run $of --suite full --threads 1 "$@"

for style in markdown latex csv; do
  suffix=$(echo $style | sed 's/markdown/md/; s/latex/tex/')
  bench table table1 $of --details --format $style > "$here/table1.$suffix"
  bench table figure2 $of --format $style > "$here/blackbox.$suffix"
done
bench heatmap $of --suite core -o "$here/transferability.png" > /dev/null
bench plot budget $of --suite core -o "$here/budget.png"
bench plot blackbox $of -o "$here/blackbox.png"
bench audit > "$here/audit.txt" || true
bench db export -o "$here/runs.zip" --no-weights
bench db export -o "$here/weights.zip" --seeds 0
