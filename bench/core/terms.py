"""Words of a few values that bench.toml, records, options and code share: each set of values is listed here alone."""

from __future__ import annotations

from typing import Literal

Kind = Literal["clean", "attack", "transfer", "craft", "blackbox", "judged", "certify", "audit", "diversity", "theory"]
"""What an evaluation measures; `craft` makes the images of a surrogate, `blackbox` judges them on a victim, `judged`
is of images that somebody else made, `certify` of what randomised smoothing certifies, `audit` a look at the gradients
of a network (`bench.core.versions.PROBES`); `diversity` is how unlike the members are, `theory` what bounds their
transfer."""
MATRICES = ("transfer", "theory")
"""Kinds that try the images crafted on each member on all of them."""
SUITES = ("craft", "blackbox", "theory")
"""Kinds whose settings name the attacks that are used."""
UNATTACKED = ("clean", "diversity")
"""Kinds without an attack, its budget and its stop rule."""
UNSHARED = {"transfer": "matrix", "theory": "pairs", "diversity": "pairs", "audit": "–"}
"""Kinds that give no single share of right images, and what stands in its place."""
USING_SURROGATES = ("blackbox", "transfer")
"""Kinds whose settings may name other ensembles that images were made on."""
MEASURED = ("attack", "blackbox", "judged")
"""Kinds that find images that do not withstand a threat."""
JobKind = Literal["train", Kind]
"""What a job does."""
Split = Literal["test", "validation"]
"""The images that are measured on."""
Stop = Literal["first_success", "last"]
"""When an image is done: as soon as one iterate is misclassified, or by its last iterate."""
Targets = Literal["random", "least_likely"]
"""How the classes are chosen that an attack leads to."""
Compile = Literal["off", "auto", "on"]
"""Whether passes of trainings are compiled; "auto" goes by device and length."""
BudgetName = Literal["eps", "c"]
"""The radius of a ball, or the weight of the loss against the distance."""
Norm = Literal["linf", "l2"]
"""Of a ball."""
Population = Literal["correct_all", "correct_both", "all"]
"""Images that a rate of transfer is a share of: right when clean on all members, on source and target, or any."""
Rate = Literal["misclassified", "same_class", "definition6", "definition6_conditional"]
"""Of transfer (`bench.store.rates`)."""
WHOLE, NOISE = "ensemble", "noise"
"""Sources of a matrix beside its members: the ensemble of them all, and random noise of an attack's size."""
Normalisation = Literal["none", "dataset", "given", "file"]
"""Where the mean and the deviation before the members of an ensemble trained elsewhere are from."""
NamedBy = Literal["own", "common", "mapped", "order"]
"""How tensors of a file are told apart: names of bench's own, those in common use, renamed ones, or their order."""
Activation = Literal["relu", "leaky_relu"]
"""Of the members."""
TakesWeights = Literal["no", "may", "must"]
"""Whether a fusion rule weighs members: never, where weights are given, or always."""
WEIGHTS = (".pth", ".pt", ".safetensors")
"""How the names of files of weights end."""
