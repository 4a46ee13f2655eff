#!/bin/sh
# Every committed table and figure of the folders here, out of the archives beside them, and what docs/reproduction.md
# says of all of them: `make tables`. Folders are done side by side.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
jobs=
trap 'kill $jobs 2> /dev/null || true; rm -rf "$work"' EXIT

# Takes the archives that a script names on top of what its folder has already.
take_in() {
  for archive in $(sed -n 's/^# archives: //p' "$1"); do
    bench db import "$(dirname "$1")/$archive.zip" --results "$2"
  done
}
folder() {
  export BENCH_RESULTS="$work/$(basename "$1")"
  beside=
  for script in "$1/tables.sh" "$1/newer.sh"; do
    if [ -f "$script" ]; then
      take_in "$script" "$BENCH_RESULTS"
      if [ "$script" = "$here/digits/tables.sh" ]; then
        cp -r "$BENCH_RESULTS" "$work/all"
        papers & beside=$!
      fi
      sh "$script"
    fi
  done
  wait $beside
}
# Of all folders: what digits, the largest, has taken in, with the others on top.
papers() {
  for script in "$here"/*/tables.sh; do
    if [ "$script" != "$here/digits/tables.sh" ]; then take_in "$script" "$work/all"; fi
  done
  bench papers --format csv --results "$work/all" > "$here/papers.csv"
  bench papers -d digits,mnist,cifar10 --format markdown --results "$work/all" > "$work/papers.md"
}

for each in "$here"/*/tables.sh; do folder "$(dirname "$each")" & jobs="$jobs $!"; done
for job in $jobs; do wait "$job"; done

# The page has them whole, with the tables beside published values.
page="$here/../../docs/reproduction.md"
{ cat "$work/papers.md"; echo; } > "$work/whole.md"
for each in "$here"/*/published.md; do cat "$each"; echo; done >> "$work/whole.md"
sed -i -e '/^<!-- from the archives/,/^<!-- end -->/{//!d}' "$page"
sed -i -e "/^<!-- from the archives/r $work/whole.md" "$page"
