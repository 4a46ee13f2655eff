#!/bin/sh
# The tables and figures beside this file, out of the results that BENCH_RESULTS names: of `make tables` those of the
# archive, of make.sh those that it made.
# archives: runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# Of the seven radii of the black-box suite the archive has four.
sh "$here/../table1.sh" "$here" mnist 0.3 0.1,0.2,0.3,0.4 500 -m ece -m paper -m trs_official
