#!/bin/sh
# Weights that authors published, measured here (docs/authors-weights.md says where they are).
# DVERGE, ADVOAP and TRADES are the folders of their repositories; BENCH_DATA that of CIFAR-10 and MNIST.
# Days on one core; goes on after an interruption, in the midst of a long attack too.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
one="--threads 1"

dverge() {
  seed=$1; shift
  bench evaluate "$DVERGE/checkpoints/dverge/seed_$seed/3_ResNet20_eps_0.07/epoch_200.pth" --model resnet20 -d cifar10 \
    --name "DVERGE, authors" --publication dverge $one "$@"
}
baseline() {
  bench evaluate "$DVERGE/checkpoints/baseline/seed_0/3_ResNet20/epoch_200.pth" --model resnet20 -d cifar10 \
    --name "baseline of DVERGE" $one "$@"
}

for seed in 0 1 2; do dverge $seed --suite core --limit 1000; done
baseline --suite core --limit 1000
baseline --attack autoattack --eps 0.01,0.02 --limit 1000
for seed in 0 1 2; do dverge $seed --attack autoattack --eps 0.01,0.02 --limit 1000; done
baseline --attack pgd --eps 0.01
for seed in 0 1 2; do dverge $seed --attack pgd --eps 0.01; done

for seed in 0 1 2; do
  bench evaluate "$ADVOAP/checkpoint/ResNet20_adv_oap_250_8_0.20_10.00_models/${seed}_last_ckpt_"?.pth \
    --model resnet20 -d cifar10 --name "AdvOAP, authors" --fusion mean_logits --normalisation none --adversarial \
    --attack pgd --set attacks.pgd.steps=20 --eps 8/255 --limit 2000 $one
done
trades="$TRADES/checkpoints/model_mnist_smallcnn.pt --model small_cnn -d mnist --normalisation none --adversarial"
bench evaluate $trades --name "TRADES, authors" --attack autoattack --eps 0.3 --limit 1000 $one
bench evaluate $trades --name "TRADES, authors" --attack autoattack --eps 0.3 $one

bench table core -m "DVERGE, authors" -m "baseline of DVERGE" -d cifar10 --limit 1000 --format markdown > "$here/core.md"
bench heatmap -m "DVERGE, authors" -m "baseline of DVERGE" -d cifar10 --limit 1000 -o "$here/transferability.png" > /dev/null
bench db export -o "$here/runs.zip" --no-weights
