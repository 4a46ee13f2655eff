"""Public attack libraries, one adapter each: the same attack with the same settings and, where it lets us, start.

They get the ensemble in eval mode with frozen parameters, their best case. Nothing here is needed to use `bench`: a
library that is not installed is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench.perf import ComparedAttack
from bench.perf.cases import Case

WASTES = "projects before it clips, so that part of the radius is lost outside [0, 1]"
CLEAN_WRONG = "leaves out images that are misclassified when clean"
OWN_NUMBERS = "random numbers of its own"
IN_AUTOATTACK = {"apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}


class Peer(ABC):
    """A library.

    Class attributes:
        name: what tables call it.
        module, package: what is imported, what pip installs.
        kinds: the attacks it has.
        notes: where it deviates from the attack's definition, and what we changed for the comparison.
        remembering: attacks that return a misclassified iterate wherever they met one: our first_success is the same.
        deviating: attacks that are only expected not to beat ours; the others have to agree.
        slow: attacks that take so much longer than everybody's that they run only where the library is asked for.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    package: ClassVar[str]
    kinds: ClassVar[tuple[ComparedAttack, ...]]
    notes: ClassVar[dict[ComparedAttack, str]] = {}
    remembering: ClassVar[tuple[ComparedAttack, ...]] = ()
    deviating: ClassVar[tuple[ComparedAttack, ...]] = ("pgd_l2", "cw", "ead")
    slow: ClassVar[tuple[ComparedAttack, ...]] = ()

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:  # not even the package that it would be in
            return False

    def crafter(self, case: Case) -> Callable[[], Tensor]:
        """What makes its images [n, C, H, W] for `case`, batch by batch; the global random state stays as it was.

        Everything that is not the attack (images as floats, our random start) is prepared outside.
        """
        x, y, starts, noise = case.images.floats(), case.images.labels, case.starts(), case.noise()
        batch = case.conditions.batch_size
        parts = [slice(start, start + batch) for start in range(0, len(x), batch)]

        def work() -> Tensor:
            made = []
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for part in parts:
                    start = None if starts is None else starts[part]
                    made.append(self.batch(case, x[part], y[part], start, None if noise is None else noise[part]))
            return torch.cat([images.detach() for images in made])

        return work

    @abstractmethod
    def batch(self, case: Case, x: Tensor, y: Tensor, start: Tensor | None, noise: Tensor | None) -> Tensor:
        """Its images of one batch [b, C, H, W], labels `y`; `start` and `noise` are rows of the case's."""


class Foolbox(Peer):
    """foolbox 3 (Rauber et al.)."""

    name = module = package = "foolbox"
    kinds = ("fgsm", "bim", "pgd", "mim", "pgd_l2", "cw", "ead")
    notes = {
        "mim": "its sum of gradient signs replaced by ℓ1-normalised gradients",
        "pgd_l2": WASTES,
        "cw": "returns black images where it fails",
        "ead": "returns black images where it fails",
    }

    def batch(self, case: Case, x: Tensor, y: Tensor, start: Tensor | None, noise: Tensor | None) -> Tensor:
        """`run` of its attack classes."""
        foolbox = importlib.import_module("foolbox")
        library, ours, kind = foolbox.attacks, _settings(case), case.kind
        model = foolbox.PyTorchModel(case.model, bounds=(0, 1), device=x.device)
        criterion = foolbox.criteria.Misclassification(y)
        if kind in ("cw", "ead"):
            shared = {
                "binary_search_steps": 1, "steps": ours.steps, "confidence": ours.confidence,
                "initial_const": case.conditions.budget, "abort_early": False,
            }  # fmt: skip
            if kind == "cw":
                return _tensor(library.L2CarliniWagnerAttack(stepsize=ours.rate, **shared).run(model, x, criterion))
            attack = library.EADAttack(initial_stepsize=ours.rate, regularization=ours.beta, **shared)
            return _tensor(attack.run(model, x, criterion))
        if kind == "fgsm":
            attack = library.LinfFastGradientAttack(random_start=False)
        else:
            settings = {"steps": ours.steps, "rel_stepsize": ours.rel_step, "random_start": start is not None}
            attack = {
                "bim": lambda: library.LinfBasicIterativeAttack(**settings),
                "pgd": lambda: library.LinfProjectedGradientDescentAttack(**settings),
                "mim": lambda: library.LinfMomentumIterativeFastGradientMethod(momentum=ours.decay, **settings),
                "pgd_l2": lambda: library.L2ProjectedGradientDescentAttack(**settings),
            }[kind]()
        if kind == "mim":  # Dong et al. 2018 add up ℓ1-normalised gradients
            scale = library.gradient_descent_base.normalize_lp_norms
            attack.normalize = lambda gradients, *, x, bounds: scale(gradients, p=1)
        if start is not None:
            eagerpy = importlib.import_module("eagerpy")
            attack.get_random_start = lambda x0, epsilon: eagerpy.astensor(start)
        return _tensor(attack.run(model, x, criterion, epsilon=case.conditions.budget))


class Shifted(nn.Module):
    """The same margins on positive scores: torchattacks masks other classes with 0, which beats log-probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)  # torchattacks puts back the mode that it finds here

    def forward(self, x: Tensor) -> Tensor:
        """Scores [b, classes], 200 higher."""
        scores: Tensor = self.model(x)
        return scores + 200


class Torchattacks(Peer):
    """torchattacks 3 (Kim)."""

    name = module = package = "torchattacks"
    kinds = ("fgsm", "bim", "pgd", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "cw", "ead")
    remembering = ("apgd_ce", "apgd_dlr")
    notes = {
        "pgd_l2": WASTES,
        "cw": "scores raised by 200 (its mask is 0); a batch stops when its summed loss rises",
        "ead": "scores raised by 200; leaves [0, 1]; its first step moves the clean image as well, unshrunk",
        "apgd_ce": CLEAN_WRONG,
        "apgd_dlr": CLEAN_WRONG,
    }

    def batch(self, case: Case, x: Tensor, y: Tensor, start: Tensor | None, noise: Tensor | None) -> Tensor:
        """Its attack objects, with our random numbers in the place of its own."""
        library: Any = importlib.import_module("torchattacks")
        ours, kind, budget, model = _settings(case), case.kind, case.conditions.budget, case.model
        if kind == "cw":
            attack = library.CW(Shifted(model), c=budget, kappa=ours.confidence, steps=ours.steps, lr=ours.rate)
            return _tensor(attack(x, y))
        if kind == "ead":
            attack = library.EADEN(
                Shifted(model), kappa=ours.confidence, lr=ours.rate, binary_search_steps=1, max_iterations=ours.steps,
                abort_early=False, initial_const=budget, beta=ours.beta,
            )  # fmt: skip
            return _tensor(attack(x, y))
        if kind in ("apgd_ce", "apgd_dlr"):
            attack = library.APGD(model, eps=budget, steps=ours.steps, loss=ours.loss, rho=ours.rho)
            with patch.object(torch, "rand", _numbers(model, x, y, noise)):
                return _tensor(attack(x, y))
        if kind == "fgsm":
            return _tensor(library.FGSM(model, eps=budget)(x, y))
        settings = {"eps": budget, "steps": ours.steps, "alpha": budget * ours.rel_step}
        attack = {
            "bim": lambda: library.BIM(model, **settings),
            "pgd": lambda: library.PGD(model, **settings),
            "mim": lambda: library.MIFGSM(model, decay=ours.decay, **settings),
            "pgd_l2": lambda: library.PGDL2(model, **settings),
        }[kind]()
        if start is None:
            return _tensor(attack(x, y))
        change = start - x
        # It draws a change for PGD, and for PGD-ℓ2 a direction (normal) and a share of ε (uniform).
        drawn = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / budget if kind == "pgd_l2" else change
        with (
            patch.object(Tensor, "normal_", lambda self: self.copy_(change)),
            patch.object(Tensor, "uniform_", lambda self, *_: self.copy_(drawn)),
        ):
            return _tensor(attack(x, y))


class Pyautoattack(Peer):
    """The authors' AutoAttack (Croce and Hein), as packaged on PyPI."""

    name = "autoattack"
    module = package = "pyautoattack"
    kinds = remembering = ("apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square", "autoattack")
    notes = {
        "apgd_ce": CLEAN_WRONG, "apgd_dlr": CLEAN_WRONG, "apgd_t": OWN_NUMBERS, "fab_t": OWN_NUMBERS,
        "square": OWN_NUMBERS, "autoattack": f"the standard list, with {OWN_NUMBERS}",
    }  # fmt: skip

    def batch(self, case: Case, x: Tensor, y: Tensor, start: Tensor | None, noise: Tensor | None) -> Tensor:
        """`APGDAttack.perturb`, with our random numbers in the place of its own; or `AutoAttack`, a part or all."""
        if noise is None:
            whole: Any = importlib.import_module("pyautoattack")
            suite = whole.AutoAttack(
                case.model, norm="Linf", eps=case.conditions.budget, version="standard", device=x.device, seed=case.seed
            )
            if case.kind in IN_AUTOATTACK:  # as in the standard list, with our number of steps
                suite.attacks_to_run = [IN_AUTOATTACK[case.kind]]
                suite.apgd_targeted.n_iter = suite.fab.n_iter = getattr(case.attack, "steps", suite.fab.n_iter)
                suite.square.n_queries = getattr(case.attack, "queries", suite.square.n_queries)
            return _tensor(suite.run_standard_evaluation(x, y, batch_size=len(x))[0])
        library: Any = importlib.import_module("pyautoattack.autopgd_base")
        ours = _settings(case)
        attack = library.APGDAttack(
            case.model, n_iter=ours.steps, eps=case.conditions.budget, loss=ours.loss, rho=ours.rho, device=x.device
        )
        with patch.object(torch, "rand", _numbers(case.model, x, y, noise)):
            return _tensor(attack.perturb(x, y))


def _numbers(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor | None) -> Callable[..., Tensor]:
    """A `torch.rand` that gives our numbers, for the images that are right when clean (the others are left out)."""
    assert noise is not None
    with torch.no_grad():
        chosen = noise[model(x).argmax(1) == y]

    def rand(shape: Any = chosen.shape, *_: Any, **__: Any) -> Tensor:
        assert tuple(shape) == tuple(chosen.shape), "the library draws for other images than expected"
        return chosen.clone()

    return rand


class ART(Peer):
    """The Adversarial Robustness Toolbox."""

    name, module, package = "art", "art.estimators", "adversarial-robustness-toolbox"  # another `art` draws letters
    kinds = ("fgsm", "bim", "pgd", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "cw", "ead")
    deviating = ("apgd_ce", "apgd_dlr", "cw", "ead")
    slow = ("cw", "ead")
    notes = {
        "apgd_ce": "returns the last iterate instead of the best",
        "apgd_dlr": "returns the last iterate instead of the best",
        "cw": "an iteration is a line search of up to eleven passes instead of a step of Adam",
        "ead": "its slope is 0 once the margin is reached",
    }

    def batch(self, case: Case, x: Tensor, y: Tensor, start: Tensor | None, noise: Tensor | None) -> Tensor:
        """`generate` of its attack classes, on a PyTorchClassifier around the ensemble."""
        evasion: Any = importlib.import_module("art.attacks.evasion")
        ours, kind, budget, model = _settings(case), case.kind, case.conditions.budget, _classifier(case, x)
        shared: dict[str, Any] = {"batch_size": len(x)}
        if kind == "fgsm":
            return _generate(evasion.FastGradientMethod(model, eps=budget, **shared), x, y)
        shared |= {"verbose": False, "max_iter": ours.steps}
        if kind in ("cw", "ead"):
            shared |= {
                "confidence": ours.confidence, "learning_rate": ours.rate, "binary_search_steps": 1,
                "initial_const": budget,
            }  # fmt: skip
            if kind == "cw":
                return _generate(evasion.CarliniL2Method(model, **shared), x, y)
            return _generate(evasion.ElasticNet(model, beta=ours.beta, decision_rule="EN", **shared), x, y)
        shared["eps"] = budget
        if kind in ("apgd_ce", "apgd_dlr"):
            loss = "cross_entropy" if kind == "apgd_ce" else "difference_logits_ratio"
            attack = evasion.AutoProjectedGradientDescent(
                model, eps_step=2 * budget, nb_random_init=1, loss_type=loss, **shared
            )
            drawn = _numbers(case.model, x, y, noise)() * 2 - 1
            change = budget * drawn / drawn.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
            with _sphere("auto_projected_gradient_descent", change):
                return _generate(attack, x, y)
        shared["eps_step"] = budget * ours.rel_step
        if kind == "mim":
            return _generate(evasion.MomentumIterativeMethod(model, decay=ours.decay, **shared), x, y)
        norm = 2 if kind == "pgd_l2" else "inf"
        attack = evasion.ProjectedGradientDescent(model, norm=norm, num_random_init=int(start is not None), **shared)
        if start is None:
            return _generate(attack, x, y)
        with _sphere("projected_gradient_descent.projected_gradient_descent_pytorch", start - x):
            return _generate(attack, x, y)


def _sphere(module: str, change: Tensor) -> Any:
    """Inside, ART's random change of the images is `change` [b, C, H, W]."""
    rows = change.flatten(1).cpu().numpy()
    return patch(f"art.attacks.evasion.{module}.random_sphere", lambda *_: rows)


def _classifier(case: Case, x: Tensor) -> Any:
    estimators: Any = importlib.import_module("art.estimators.classification")
    with torch.no_grad():
        classes = case.model(x[:1]).shape[1]
    return estimators.PyTorchClassifier(
        model=case.model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes,
        clip_values=(0.0, 1.0), device_type="gpu" if x.is_cuda else "cpu",
    )  # fmt: skip


def _generate(attack: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())).to(x)


def _settings(case: Case) -> Any:
    """Our attack, whose fields depend on its kind."""
    return case.attack


def _tensor(made: Any) -> Tensor:
    assert isinstance(made, Tensor), type(made)
    return made


PEERS: tuple[Peer, ...] = (Foolbox(), Torchattacks(), Pyautoattack(), ART())
