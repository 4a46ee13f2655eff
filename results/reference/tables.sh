#!/bin/sh
# Every committed table and figure of the folders here, out of the archives beside them, and what docs/reproduction.md
# says of all of them: `make tables`. Folders are done side by side.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
jobs=
trap 'kill $jobs 2> /dev/null || true; rm -rf "$work"' EXIT

# What a folder's archives hold, without the weights, into results of their own or of others.
take_in() {
  for archive in "$1"/*.zip; do
    case "$archive" in */weights.zip) ;; *) bench db import "$archive" --results "$2" ;; esac
  done
}
folder() {
  take_in "$1" "$work/$(basename "$1")"
  BENCH_RESULTS="$work/$(basename "$1")" sh "$1/tables.sh"
}
papers() {
  for each in "$here"/*/tables.sh; do take_in "$(dirname "$each")" "$work/all"; done
  bench papers --format csv --results "$work/all" > "$here/papers.csv"
  bench papers -d digits,mnist,cifar10 --format markdown --results "$work/all" > "$work/papers.md"
}

for each in "$here"/*/tables.sh; do folder "$(dirname "$each")" & jobs="$jobs $!"; done
papers & jobs="$jobs $!"
for job in $jobs; do wait "$job"; done

# The page has them whole, with the tables beside published values.
page="$here/../../docs/reproduction.md"
cat "$work/papers.md" "$here"/*/published.md > "$work/whole.md"
sed -i -e '/^<!-- from the archives/,/^<!-- end -->/{//!d}' "$page"
sed -i -e "/^<!-- from the archives/r $work/whole.md" "$page"
