#!/bin/sh
# The tables of newer defences and of AutoAttack, out of what tables.sh takes and more.
# archives: autoattack defences
set -eu
here=$(cd "$(dirname "$0")" && pwd)
columns="--method paper --method ece --dataset digits"
defences=$(for each in adv_oap mrboost mrboost_mce fasten adv_fasten lotos igat_adp igat_dverge barre deg deg_pdd parl aute drt
  do echo "--method $each"; done)

bench table table1 $defences --dataset digits --seeds 0 --method ece --method trs --format markdown > "$here/defences.md"
bench table autoattack $columns $defences --seeds 0 --format markdown > "$here/autoattack.md"
