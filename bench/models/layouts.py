"""How the tensors of a file lie: which are the members of an ensemble, under which names, and what stands beside them.

Everything in a file has a place: the keys on the way to it, joined by dots. Wrappers (`state_dict`), prefixes
(`module.`), numbered entries (`model0`, `nets.0`, lists) are all beginnings of places, so one search finds the members:
the beginnings behind which a whole network stands. What belongs to none of them is understood, or refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.terms import NamedBy
from bench.models.outside import COUNTERS, StateDict, WeightsFile, some, unusual

Translate = Callable[[str], str]
Numbers = tuple[float, ...]

MEAN = re.compile(r"(?:.*[._])?(?:mean|means|mu)")
STD = re.compile(r"(?:.*[._])?(?:std|stds|sd|sds|sigma|stdev)")
MOST_NOTED = 4  # channels of a normalisation in plain numbers: a longer list is rather one number a class
MOST_CHANNELS = 16  # a vector longer than this is no normalisation of images
# Last words of a place: single numbers, or rows of them, that training code notes beside weights.
NOTED = re.compile(
    r"acc|loss|err|epoch|step|iter|best|robust|score|time|^lr|learning_rate|n_averaged|num_updates|decay|initted|seed"
    r"|version", re.IGNORECASE,
)  # fmt: skip
NOTES = re.compile(r"(?:callbacks|loops|history|logs?|metrics|stats)\.")  # where all that is small is noted
# Words for the same networks a second time: averaged, or of another moment.
COPY = re.compile(
    r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow|teacher|student|best|last|online|target|old|prev\w*)(?:[._]|$)",
    re.IGNORECASE,
)
# Words for rules that are no plain mean of the members.
RULE = re.compile(
    r"(?:^|[._ -])(?:cascaded?\w*|thresholds?|gat(?:e|es|ing)|rout(?:er|ing)|combiner|aggregat\w+|fusion\w*"
    r"|vot(?:e|es|ing)|mixture|boost\w*|meta_?(?:learner|model)|stacking|temperatures?)(?:[._ -]|$)",
    re.IGNORECASE,
)
RULE_WEIGHTS = re.compile(r"(?:^|[._])(?:\w*weights|alphas?|coefs?|coefficients)$", re.IGNORECASE)


@dataclass(frozen=True)
class Renaming:
    """What was said of the names in a file.

    Args:
        prefixes: the parts of the file that are meant, by the beginnings of their places, in this order; none: all.
        renamed: (old, new): a name that is `old` or begins with `old.` begins with `new` instead; in turn.
        by_order: pay no heed to names: tensors are taken in the order of the file, and their shapes must agree.
    """

    prefixes: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    by_order: bool = False

    def options(self) -> str:
        """As it is typed."""
        parts = [("--prefix", prefix) for prefix in self.prefixes]
        parts += [("--map", f"{old}={new}") for old, new in self.renamed]
        words = [word for part in parts for word in part] + (["--by-order"] if self.by_order else [])
        return shlex.join(words)


@dataclass(frozen=True)
class Wanted:
    """The network of one member.

    Args:
        state: its parameters and buffers.
        own_name: from a name that is in common use to its own.
        common_name: the way back.
    """

    state: Mapping[str, Tensor]
    own_name: Translate = str
    common_name: Translate = str

    @property
    def needed(self) -> list[str]:
        """The names without the counters of batches."""
        return [name for name in self.state if not name.endswith(COUNTERS)]


@dataclass(frozen=True)
class Member:
    """One network in a file.

    Args:
        place: what all its names begin with, with the last dot; empty for a file that holds it alone.
        state: its tensors under the network's own names.
        names: by which its tensors were found; "common" are those in use elsewhere.
        mean, std: of the file's own normalisation, for images in [0, 1]; None where the file has none.
        theirs: what the file calls a tensor behind the place.
    """

    place: str
    state: StateDict
    names: NamedBy
    mean: Numbers | None = None
    std: Numbers | None = None
    theirs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """What a file was understood to hold.

    Args:
        members: in their order.
        weights: of the fusion rule, where the file has one a member.
        rule: places of what speaks of a rule that is no plain mean; empty for most.
        left_out: places that `--prefix` left out.
    """

    members: tuple[Member, ...]
    weights: Numbers | None = None
    rule: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """A network: its place, and our name → the whole place of each tensor."""

    place: str
    tensors: dict[str, str]
    names: NamedBy


def recognise(contents: WeightsFile, wanted: Wanted, renaming: Renaming, source: str) -> Layout:
    """The members in a file.

    Args:
        source: what messages call the file.

    Raises:
        BenchError: no network there fits, several do that are not numbered, or tensors are left over; the message says
            which, and an option that it names has been tried on this file.
    """
    return _File(contents, wanted, renaming, source).layout()


@dataclass(frozen=True)
class _File:
    """A file, the network that is looked for, and what was said; `trial`: only to see whether something would help."""

    contents: WeightsFile
    wanted: Wanted
    renaming: Renaming
    source: str
    trial: bool = False

    def layout(self) -> Layout:
        """As `recognise`."""
        tensors = self.contents.tensors
        self._check_maps()
        if not self.renaming.prefixes:
            return self._understood(tensors, {}, "")
        parts = []
        for prefix in self.renaming.prefixes:
            selected, places, base = self._selected(prefix)
            rest = {place: tensor for place, tensor in tensors.items() if place not in places}
            parts.append(self._understood(selected, rest, base))
        members = tuple(member for part in parts for member in part.members)
        rule = tuple(dict.fromkeys(place for part in parts for place in part.rule))
        left = (place for place in parts[0].left_out if all(place in part.left_out for part in parts))
        return Layout(members, parts[0].weights if len(parts) == 1 else None, rule, tuple(left))

    def _check_maps(self) -> None:
        """Raises BenchError for a renaming of nothing."""
        made: list[str] = []
        for old, new in self.renaming.renamed:
            inside = re.compile(rf"(?:.*\.)?{re.escape(old)}(?:\..*)?", re.DOTALL)
            if not any(inside.fullmatch(place) for place in (*self.contents.tensors, *made)):
                names = some(self.contents.tensors)
                raise BenchError(f"{self.source}: no name has a part {old!r} for --map to rename; they are {names}")
            made.append(new)

    def _selected(self, prefix: str) -> tuple[StateDict, set[str], str]:
        """What begins with the prefix, without it; the places that this was; the prefix, if they begin with it.

        Where none does, names count that have it behind their first keys.

        Raises:
            BenchError: none has it at all.
        """
        tensors, base = self.contents.tensors, prefix
        found = {place: place.removeprefix(prefix).lstrip(".") for place in tensors if place.startswith(prefix)}
        if not found:
            inner, base = re.compile(rf"(.*?\.){re.escape(prefix)}(.*)", re.DOTALL), ""
            matches = ((place, inner.fullmatch(place)) for place in tensors)
            found = {place: match[1] + match[2].lstrip(".") for place, match in matches if match}
        if not found:
            raise BenchError(f"{self.source}: no name begins with {prefix!r}; they are {some(tensors)}")
        if len(set(found.values())) < len(found):
            raise BenchError(f"{self.source}: without {prefix!r} two tensors have the same name")
        return {name: tensors[place] for place, name in found.items()}, set(found), base

    def _understood(self, tensors: StateDict, rest: StateDict, base: str) -> Layout:
        """The layout of some of the tensors; `rest` are those not chosen, `base` what the chosen ones began with."""
        for place, tensor in tensors.items():
            if told := unusual(tensor):
                raise BenchError(f"{self.source}: {base}{place} is {told}")
        found, tensors = self._search(tensors)
        if not found:
            raise BenchError(f"{self.source} does not fit the model: {self._misfit(tensors)}")
        used = {place for one in found for place in one.tensors.values()}
        found = self._in_turn(_distinct(found, tensors))
        left = {place: tensor for place, tensor in tensors.items() if place not in used}
        members, outer, noted = [], set[str](), _noted_normalisation(self.contents.beside)
        for one in found:
            state = {name: tensors[place] for name, place in one.tensors.items()}
            within, own = left, self._normaliser(one, found, left, "")
            if own is None:
                within, own = rest, self._normaliser(one, found, rest, base)
            if own is None:
                within, own = noted, self._normaliser(one, found, noted, base)
            member = Member(base + one.place, state, one.names, theirs=_behind(one))
            if own is None:
                members.append(member)
                continue
            (used if within is left else outer).update(place for places in own for place in places)
            means, stds = (within[places[0]].double().flatten().tolist() for places in own)
            mean, std = self._in_unit(means, stds, own[1][0])
            members.append(replace(member, mean=mean, std=std))
        left = {place: tensor for place, tensor in left.items() if place not in used}
        weights, rule = self._rule(left, len(found))
        left = {place: t for place, t in left.items() if place not in rule and not _noted(place, t)}
        if left:
            raise BenchError(f"{self.source}: {self._left_over(left, found)}")
        return Layout(tuple(members), weights, rule, tuple(place for place in rest if place not in outer))

    def _search(self, tensors: StateDict) -> tuple[list[_Found], StateDict]:
        """The networks in these tensors, and the tensors under the names that they have then.

        Names to be changed are those of the whole file, or, where that finds nothing, those within each place.
        """
        changes, by_order = self.renaming.renamed, self.renaming.by_order
        changed = {_renamed(place, changes): tensor for place, tensor in tensors.items()}
        mapped = list(changed) != list(tensors)
        whole = len(changed) == len(tensors) and (mapped or not changes)
        if whole and (found := _networks(changed, "", self.wanted, (), by_order)):
            return [replace(one, names="mapped") if mapped else one for one in found], changed
        return _networks(tensors, "", self.wanted, changes, by_order) if changes else [], tensors

    def _in_turn(self, found: list[_Found]) -> list[_Found]:
        """Networks that are numbered, by their numbers.

        Raises:
            BenchError: they are not, or a number is missing.
        """
        if len(found) == 1:
            return found
        kinds: dict[str, list[_Found]] = {}
        for one in found:
            kinds.setdefault(_kind(one), []).append(one)
        holds = f"{self.source} holds {len(found)} networks that fit"
        if len(kinds) > 1:
            raise BenchError(f"{holds}, {self._choice(list(kinds.values()))}")
        numbers = [[int(number) for number in re.findall(r"\d+", one.place)] for one in found]
        varying = [place for place, values in enumerate(zip(*numbers, strict=True)) if len(set(values)) > 1]
        if len(varying) != 1:
            every = self._tried(tuple(one.place for one in found), len(found))
            places = some([one.place for one in found])
            raise BenchError(f"{holds}, numbered in several ways: {places}{f'; {every} takes all' if every else ''}")
        order = sorted(range(len(found)), key=lambda place: numbers[place][varying[0]])
        counted = [numbers[place][varying[0]] for place in order]
        if counted != list(range(counted[0], counted[0] + len(counted))):
            every = self._tried(tuple(one.place for one in found), len(found))
            raise BenchError(
                f"{holds}, numbered {', '.join(map(str, counted))}: is one missing, or of another model?"
                f"{f' {every} takes these' if every else ''}"
            )
        return [found[place] for place in order]

    def _choice(self, kinds: list[list[_Found]]) -> str:
        """What to say of networks in places of different kinds."""
        heads = [_head(group) for group in kinds]
        counts = {len(group) for group in kinds}
        told = " and ".join(head or "the whole file" for head in heads)
        if len(counts) == 1 and sum(not COPY.search(head) for head in heads) <= 1:
            (count,) = counts
            hints = [self._tried((head,), count) for head in heads]
            if all(hints):
                each = f"the same {count} twice" if count > 1 else "the same one twice"
                return f"{each} as it seems, under {told}; say which: {' or '.join(hints)}"
        places = tuple(one.place for group in kinds for one in group)
        every = self._tried(places, len(places))
        return f"under {told}, not numbered as members are" + (f"; {every} takes all as members" if every else "")

    def _tried(self, prefixes: tuple[str, ...], members: int) -> str:
        """`--prefix` with these, if the file is then understood as so many members; else nothing."""
        if self.trial or self.renaming.prefixes or not all(prefixes):
            return ""
        return self._helps(replace(self.renaming, prefixes=prefixes), members)

    def _helps(self, renaming: Renaming, members: int | None = None) -> str:
        """The options, if with them the file is understood (as so many members); else nothing."""
        try:
            found = replace(self, renaming=renaming, trial=True).layout()
        except BenchError:
            return ""
        return renaming.options() if members in (None, len(found.members)) else ""

    def _normaliser(
        self, one: _Found, found: list[_Found], tensors: StateDict, base: str
    ) -> tuple[list[str], list[str]] | None:
        """The places of the mean and of the deviation that are nearest to a network; None where there are none.

        Several places hold the same.

        Raises:
            BenchError: only one of the two is there, or several that differ.
        """
        others = [base + other.place for other in found if other is not one and other.place]
        own = {}
        for what, pattern in (("mean", MEAN), ("std", STD)):
            near = _nearest(tensors, base + one.place, others, pattern)
            if not all(torch.equal(tensors[place], tensors[near[0]]) for place in near):
                raise BenchError(
                    f"{self.source}: {some(near)} may each be the normalisation of {one.place or 'the network'}; save "
                    "the file with the right one alone"
                )
            if near:
                own[what] = near
        if len(own) == 1:
            ((place, *_),) = own.values()
            raise BenchError(
                f"{self.source}: {place} looks like one half of a normalisation, and the other is missing; save the "
                "file without it, and give --mean and --std"
            )
        return (own["mean"], own["std"]) if own else None

    def _in_unit(self, mean: list[float], std: list[float], place: str) -> tuple[Numbers, Numbers]:
        """A normalisation for images in [0, 1], also where the file has it for images in 0 to 255."""
        if not min(std) > 0:
            raise BenchError(f"{self.source}: {place} holds a deviation that is not above 0")
        scale = 255.0 if max(map(abs, mean)) > 2 or min(std) > 10 else 1.0
        return tuple(float32(value / scale) for value in mean), tuple(float32(value / scale) for value in std)

    def _rule(self, left: StateDict, members: int) -> tuple[Numbers | None, tuple[str, ...]]:
        """Weights of members, one each, and the places of all that speaks of a rule; nothing for one network."""
        if members == 1:
            return None, ()
        weights: Numbers | None = None
        rule: list[str] = []
        rows = {place: t.double().flatten().tolist() for place, t in left.items() if t.numel() == members}
        rows |= {place: value for place, value in self.contents.beside.items() if _numbers(value)}
        for place, values in rows.items():
            if RULE_WEIGHTS.search(place) and len(values) == members:
                weights, rule = tuple(map(float, values)), [*rule, place]
        for place, value in self.contents.beside.items():
            worded = isinstance(value, str) and RULE.search(value)
            if worded or (RULE.search(place) and value not in (None, False, "") and place not in rule):
                rule.append(place)
        rule += [place for place, t in left.items() if t.ndim < 2 and RULE.search(place) and place not in rule]
        return weights, tuple(rule)

    def _left_over(self, left: StateDict, found: list[_Found]) -> str:
        """What to say of tensors that belong to nothing."""
        told = f"{some(left)} belong{'s' if len(left) == 1 else ''} to no member of this model"
        if words := [place for place in left if RULE.search(place)]:
            return f"{told}; {words[0]} speaks of a way to fuse members that is not among those of --fusion"
        copies = all(COPY.search(place) for place in left)
        network = sum(tensor.ndim >= 2 for tensor in left.values()) >= 2
        heads = (_head(found),) if len(found) > 1 else (found[0].place,)
        hint = self._tried(heads, len(found)) if copies or not network else ""
        it = "it" if len(left) == 1 else "them"
        if copies and hint:
            return f"{told}; to leave {it} out: {hint}"
        if network:
            return f"{told}; are they a member of another model? Members are of one model here"
        if hint:
            return f"{told}; if the networks do without {it}, leave {it} out: {hint}"
        return f"{told}; save the file without what the networks do not need"

    def _misfit(self, tensors: StateDict) -> str:
        """Where names differ in the place that fits best, and what would help."""
        names, translate = set(self.wanted.needed), self.wanted.own_name
        places = dict.fromkeys(name[: dot.end()] for name in tensors for dot in re.finditer(r"\.", name))
        best: tuple[int, str] = (0, "")
        for place in ("", *places):
            inside = (name.removeprefix(place) for name in tensors if name.startswith(place))
            best = max(best, (sum(translate(name) in names for name in inside), place), key=lambda pair: pair[0])
        place = best[1]
        here = [name.removeprefix(place) for name in tensors if name.startswith(place)]
        here = [n for n in here if not _counts(n, tensors[place + n]) and not _beside(n, tensors[place + n])]
        if self.renaming.by_order:
            return self._first_difference(tensors, here, place)
        theirs = {translate(name): name for name in here}
        missing = [name for name in self.wanted.needed if name not in theirs]
        extra = [place + name for ours, name in theirs.items() if ours not in names]
        if any(name in names and theirs[name] != name for name in theirs):  # missing ones in the words of the file
            missing = [self.wanted.common_name(name) for name in missing]
        parts = [f"it lacks {some(missing)}"] if missing else []
        parts += [f"the model has no {some(extra)}"] if extra else []
        if extra and not missing:
            return f"{parts[0]}. Is --model the right one? If the network does not need them, save the file without"
        return f"{'; '.join(parts) or 'some of its names stand twice'}. {self._advice()}"

    def _first_difference(self, tensors: StateDict, here: list[str], place: str) -> str:
        needed = self.wanted.needed
        for number, (ours, name) in enumerate(zip(needed, here, strict=False), start=1):
            given, wanted = tuple(tensors[place + name].shape), tuple(self.wanted.state[ours].shape)
            if given != wanted:
                return (
                    f"its tensor number {number} is {given}, the model wants {wanted} ({ours}) there; map the names "
                    "with --map instead"
                )
        return f"{len(here)} tensors, the model has {len(needed)}"

    def _advice(self) -> str:
        """What would make the names fit; an option that is named has been tried."""
        ordered = replace(self.renaming, renamed=(), by_order=True)
        if self.trial or not (hint := self._helps(ordered)):
            return "Is --model the right one? --prefix and --map OLD=NEW change names"
        return f"In order the shapes do agree: {hint} takes the tensors as they come; or name them with --map OLD=NEW"


def _distinct(found: list[_Found], tensors: StateDict) -> list[_Found]:
    """Without those that are the same, number for number, as another that is no entry of the same list.

    Some codes save a network a second time within an object that attacks it.
    """
    kept: list[_Found] = []
    for one in found:
        if not any(_kind(other) != _kind(one) and _same(other, one, tensors) for other in kept):
            kept.append(one)
    return kept


def _same(one: _Found, other: _Found, tensors: StateDict) -> bool:
    both = (
        (tensors[place], tensors[other.tensors[name]]) for name, place in one.tensors.items() if name in other.tensors
    )
    return all(torch.equal(mine, theirs) for mine, theirs in both)


def _kind(one: _Found) -> str:
    """Its place without numbers."""
    return re.sub(r"\d+", "#", one.place)


def _head(group: list[_Found]) -> str:
    """What the places of a group begin with: all of one place, or the keys and letters before the number."""
    return group[0].place if len(group) == 1 else re.split(r"\d", group[0].place)[0]


def _renamed(name: str, changes: Iterable[tuple[str, str]]) -> str:
    for old, new in changes:
        if name == old:
            name = new
        elif name.startswith(f"{old}."):
            name = (f"{new}." if new else "") + name.removeprefix(f"{old}.")
    return name


def _networks(
    tensors: StateDict, place: str, wanted: Wanted, changes: tuple[tuple[str, str], ...], by_order: bool
) -> list[_Found]:
    """The places behind which a whole network stands; of nested ones the outermost."""
    fit = _ordered(tensors, wanted) if by_order else _named(tensors, wanted, changes)
    if fit is not None:
        names, pairs = fit
        return [_Found(place, {name: place + within for name, within in pairs.items()}, names)]
    groups: dict[str, StateDict] = {}
    for name, tensor in tensors.items():
        head, dot, within = name.partition(".")
        if dot:
            groups.setdefault(f"{head}.", {})[within] = tensor
    return [one for head, group in groups.items() for one in _networks(group, place + head, wanted, changes, by_order)]


def _named(
    tensors: StateDict, wanted: Wanted, changes: tuple[tuple[str, str], ...]
) -> tuple[NamedBy, dict[str, str]] | None:
    """How names fit: which they are, and our name → theirs; None where they do not."""
    needed = set(wanted.needed)
    if len(tensors) < len(needed):
        return None
    network = [name for name in tensors if not _beside(name, tensors[name])]
    ways: list[tuple[NamedBy, Iterable[str], Translate]] = [
        ("own", tensors, str), ("own", network, str), ("common", network, wanted.own_name),
    ]  # fmt: skip
    if changes:
        ways = [
            ("mapped", network, lambda name: _renamed(name, changes)),
            ("mapped", network, lambda name: wanted.own_name(_renamed(name, changes))),
        ]
    for kind, names, translate in ways:
        pairs: dict[str, str] = {}
        counters: dict[str, str] = {}
        total = 0
        for name in names:
            ours = translate(name)
            if ours.endswith(COUNTERS):
                counters[ours] = name
            else:
                total += 1
                pairs[ours] = name
        if total == len(pairs) and pairs.keys() == needed and counters.keys() <= wanted.state.keys():
            return kind, pairs | counters
    return None


def _ordered(tensors: StateDict, wanted: Wanted) -> tuple[NamedBy, dict[str, str]] | None:
    """How tensors fit in their order, by shapes alone; None where they do not."""
    counters = [name for name, tensor in tensors.items() if _counts(name, tensor)]
    theirs = [name for name, tensor in tensors.items() if not _counts(name, tensor) and not _beside(name, tensor)]
    if len(theirs) != len(wanted.needed):
        return None
    if any(wanted.state[o].shape != tensors[t].shape for o, t in zip(wanted.needed, theirs, strict=True)):
        return None
    ours = [name for name in wanted.state if name.endswith(COUNTERS)]
    if counters and len(counters) != len(ours):
        return None
    return "order", dict(zip((*wanted.needed, *ours), (*theirs, *counters), strict=False))


def _counts(name: str, tensor: Tensor) -> bool:
    """Whether it counts batches, by its name or by what it is."""
    return name.endswith(COUNTERS) or (tensor.ndim == 0 and not tensor.is_floating_point())


def _beside(name: str, tensor: Tensor) -> bool:
    """Whether a tensor may stand in a network's place without being its: a normalisation, a number that was noted."""
    return _normalises(name, tensor, MEAN) or _normalises(name, tensor, STD) or _noted(name, tensor)


def _normalises(name: str, tensor: Tensor, what: re.Pattern[str]) -> bool:
    numbers = not tensor.is_complex() and tensor.dtype != torch.bool  # (0, 0, 0) and (1, 1, 1) come as whole ones
    plain = numbers and tensor.numel() <= MOST_CHANNELS and tensor.squeeze().ndim <= 1
    return plain and bool(what.fullmatch(name)) and not name.endswith(("running_mean", "running_var"))


def _noted(name: str, tensor: Tensor) -> bool:
    """Whether it is what training code notes (an accuracy, a step), no weight."""
    return tensor.squeeze().ndim <= 1 and bool(NOTES.match(name) or NOTED.search(name.rpartition(".")[2]))


def float32(value: float) -> float:
    """The shortest number that is this one in float32: .4914 rather than .49140000343."""
    return float(str(np.float32(value)))


def _behind(one: _Found) -> dict[str, str]:
    """Our name → what the file calls the tensor behind the network's place."""
    return {name: place.removeprefix(one.place) for name, place in one.tensors.items()}


def _noted_normalisation(beside: Mapping[str, Any]) -> StateDict:
    """A mean and a deviation that stand beside the weights as plain numbers, one a channel; nothing where one lacks.

    A single number, which may be of anything, is one where its place speaks of a normalisation.
    """
    found = {
        place: torch.tensor(value, dtype=torch.float64)
        for place, value in beside.items()
        if (_numbers(value) and len(value) <= MOST_NOTED) or (type(value) is float and "norm" in place.lower())
    }
    found = {place: numbers for place, numbers in found.items() if not NOTES.match(place)}
    means, stds = ({p: t for p, t in found.items() if of.fullmatch(p)} for of in (MEAN, STD))
    return means | stds if means and stds and all(float(t.min()) > 0 for t in stds.values()) else {}


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(type(part) in (int, float) for part in value)


def _nearest(tensors: StateDict, place: str, others: list[str], pattern: re.Pattern[str]) -> list[str]:
    """The normalisers that share the most keys with a network's place, and stand in none of the others'."""
    shared: dict[int, list[str]] = {}
    keys = place.split(".")[:-1]
    for name, tensor in tensors.items():
        if not _normalises(name, tensor, pattern) or any(name.startswith(other) for other in others):
            continue
        theirs = name.split(".")[:-1]
        both = list(zip(keys, theirs, strict=False))
        common = next((count for count, (mine, its) in enumerate(both) if mine != its), len(both))
        # One beside another number of the same list is another member's, but for layers 0 and 1 of one sequence.
        apart = common < len(both) and all(re.search(r"\d", key) for key in both[common])
        if not apart or len(theirs) == common + 1:
            shared.setdefault(common, []).append(name)
    return shared[max(shared)] if shared else []
