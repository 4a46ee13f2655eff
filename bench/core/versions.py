"""Versions of the parts that every result depends on. Raise one when it changes results: older results become stale.

Another order of sums does not change results: it changes the last bits, as another processor or release of torch does.
"""

TRAINER = 1  # bench.training: the loop, the optimisers, the data order
PROBES = {"gradients": 1, "planted": 1, "loss_terms": 1}  # what evaluations of kind `audit` measure
EVALUATOR = 1  # bench.attacks.judge and bench.evaluation: which images are attacked, how outcomes are judged
