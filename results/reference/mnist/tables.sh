#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

sh "$here/../table1.sh" "$here" mnist 0.3 -m ece -m paper -m trs_official
