#!/bin/sh
# Weights that authors published, measured here (docs/authors-weights.md says where they are).
# DVERGE, ADVOAP and TRADES are the folders of their repositories; BENCH_DATA that of CIFAR-10 and MNIST.
# Half an hour on an H200 GPU (ONE= make.sh), days on one core; goes on after an interruption, in the midst of a
# long attack too.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
one=${ONE---threads 1}

dverge() {
  seed=$1; shift
  bench evaluate "$DVERGE/checkpoints/dverge/seed_$seed/3_ResNet20_eps_0.07/epoch_200.pth" --model resnet20 -d cifar10 \
    --name "DVERGE, authors" --publication dverge $one "$@"
}
baseline() {
  bench evaluate "$DVERGE/checkpoints/baseline/seed_0/3_ResNet20/epoch_200.pth" --model resnet20 -d cifar10 \
    --name "baseline of DVERGE" $one "$@"
}

advoap() {
  seed=$1; shift
  bench evaluate "$ADVOAP/checkpoint/ResNet20_adv_oap_250_8_0.20_10.00_models/${seed}_last_ckpt_"?.pth \
    --model resnet20 -d cifar10 --name "AdvOAP, authors" --fusion mean_logits --normalisation none --adversarial $one "$@"
}
trades() {
  bench evaluate "$TRADES/checkpoints/model_mnist_smallcnn.pt" --model small_cnn -d mnist --normalisation none \
    --adversarial --name "TRADES, authors" $one "$@"
}
audit() { # NAME OPTION…: the close look at its first seed
  id=$(bench list runs --json | python3 -c 'import json, sys; print(*[run["id"] for run in json.load(sys.stdin) if run["method"] == sys.argv[1] and run["seed"] == 0])' "$1")
  shift
  bench audit $id --deep $one "$@" > /dev/null || true
}

for seed in 0 1 2; do dverge $seed --suite core --limit 1000; done
baseline --suite core --limit 1000
for seed in 0 1 2; do dverge $seed --attack pgd --eps 0.01; done
baseline --attack pgd --eps 0.01
baseline --attack cw,ead --limit 500
for seed in 0 1 2; do dverge $seed --attack cw,ead --limit 500; done
for seed in 0 1 2; do advoap $seed --suite linf-8-255 --limit 1000; done
for seed in 0 1 2; do advoap $seed --attack pgd --set attacks.pgd.steps=20 --eps 8/255 --limit 2000; done
audit "DVERGE, authors" --eps 0.01 --limit 200
audit "AdvOAP, authors" --eps 8/255 --limit 200
baseline --attack autoattack --eps 0.01,0.02 --limit 1000
dverge 0 --attack autoattack --eps 0.01,0.02 --limit 1000
advoap 0 --attack autoattack --eps 8/255 --limit 200
advoap 0 --suite core --limit 200
trades --attack pgd --eps 0.3 --limit 200
audit "TRADES, authors" --eps 0.3 --limit 200
trades --attack autoattack --eps 0.3 --limit 1000

for seed in 1 2; do dverge $seed --attack autoattack --eps 0.01,0.02 --limit 1000; done
for seed in 0 1 2; do dverge $seed --attack apgd_ce,apgd_dlr --limit 1000; done
baseline --attack apgd_ce,apgd_dlr --limit 1000
trades --attack autoattack --eps 0.3

# Black box: images made on plain ensembles of three, five and eight ResNet-8s that are trained here by the recipe `cpu`,
# and on DVERGE's baseline, from which all three seeds of DVERGE started.
box() { # METHOD SEEDS RADII OPTION…
  method=$1 seeds=$2 radii=$3; shift 3
  bench run $one -d cifar10 --recipe cpu --suite figure2 --limit 200 --set "blackbox.budgets.cifar10=[$radii]" \
    -m "$method" --seeds $seeds "$@"
}
for method in "DVERGE, authors" "AdvOAP, authors"; do
  box "$method" 0-2 0.02,0.05,0.07
  box "$method" 0-2 0.02,0.05 --set 'blackbox.method="baseline of DVERGE"'
done
box "baseline of DVERGE" 0 0.02,0.05,0.07

# What the archive does not have yet.
for seed in 1 2; do advoap $seed --attack autoattack --eps 8/255 --limit 200; done
advoap 0 --attack autoattack --eps 8/255 --limit 1000

sh "$here/tables.sh"
bench db export -o "$here/runs.zip" --no-weights
