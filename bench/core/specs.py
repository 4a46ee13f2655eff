"""What `bench.toml` may say: frozen, validated specifications.

Tables whose remaining keys are settings of a plug-in (`[methods.trs]`, `[attacks.pgd]`, `[models.resnet20]`) keep
them in `settings`; the plug-in's own fields check them (`bench.core.settings`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.core.errors import unknown_name
from bench.core.numbers import BATCH, BUDGET, EPOCHS, IMAGES, MEMBERS, MOST, WHOLE, parse_number
from bench.core.precision import OfPasses, Precision
from bench.core.settings import explain
from bench.core.terms import Norm, Population, Stop, Targets

Budget = Annotated[float, BeforeValidator(parse_number), Field(ge=0, le=BUDGET, allow_inf_nan=False)]
Budgets = Annotated[tuple[Budget, ...], Field(max_length=MOST)]
Settings = dict[str, Any]
BY_MEMBERS = "by_members"


class Spec(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def later(self) -> dict[str, Any]:
        """The fields that were `added` and are not as before, as JSON: what ids are made of beside older fields."""
        return self.model_dump(mode="json", include=set(added_to(type(self))))


def added(default: Any, **rules: Any) -> Any:
    """`Field` for what came after results were stored without it; `default` is what was done before, for ever.

    As `bench.core.settings.added` for a plug-in's settings: at `default` it is in no record and in no id.
    """
    return Field(default, exclude_if=lambda value: value == default, **rules)


def beside(default: Any, **rules: Any) -> Any:
    """`Field` that enters no id by itself, or in a form of its own; at `default` it is in no record."""
    return Field(default, exclude_if=lambda value: value == default, json_schema_extra={"beside": True}, **rules)


def added_to(spec: type[Spec]) -> dict[str, Any]:
    """The fields of a spec that were `added`, with what a record without them says."""
    return {
        name: field.default
        for name, field in spec.model_fields.items()
        if field.exclude_if is not None and field.json_schema_extra is None
    }


class _WithSettings(Spec):
    """A table whose unknown keys are the settings of its plug-in."""

    settings: Settings = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        known = set(cls.model_fields) - {"settings"}
        rest = {key: value for key, value in table.items() if key not in known}
        return {**{key: value for key, value in table.items() if key in known}, "settings": rest}


class DatasetSpec(_WithSettings):
    """`[datasets.NAME]`."""

    plugin: str
    title: str = Field("", description="what people read in figures and captions; the name unless given")
    suite: str = Field(description="the suite that `bench run` uses when none is named")
    recipe: str | None = Field(None, description="the recipe that `bench run` uses when none is named")
    like: str | None = Field(None, description="the data set whose budgets it has where the file gives none for it")
    eps: Budgets = Field((), description="its radii of attacks in the ℓ∞ ball, where the file gives none for it")


class ModelSpec(_WithSettings):
    """`[models.NAME]`."""

    plugin: str
    title: str = Field("", description="what people read in figures and captions; the name unless given")
    description: str = ""


class PublicationSpec(Spec):
    """`[publications.NAME]`: a paper that methods are from; facts for readers, part of no identity."""

    title: str
    authors: tuple[str, ...] = Field(min_length=1)
    venue: str
    year: int = Field(ge=1900, le=3000)
    url: str = ""
    code: str = Field("", description="address of the authors' code")
    licence: str = Field("", description='of that code, by its usual short name; "none" where it has none')


class MethodSpec(_WithSettings):
    """`[methods.NAME]`: a configured method; `datasets.D` holds what differs on one data set.

    `datasets.D.by_members` holds what differs there for a number of members: `by_members = { 5 = { eps = 0.05 } }`.
    """

    plugin: str
    title: str = ""
    description: str = ""
    paper: bool = Field(False, description="a column of the paper's Table 1")
    published: str | None = Field(None, description="column of the published table to stand beside; own name if paper")
    publication: str | None = Field(None, description="a name in [publications]: the paper that it is from")
    adversarial: bool = Field(False, description="it trains on attacked images (a fact for readers, no setting)")
    on: str | None = Field(None, description="the configured method that this one is on, of a `Compound`")
    datasets: dict[str, Settings] = Field(default_factory=dict)

    @field_validator("datasets")
    @classmethod
    def _by_members(cls, datasets: dict[str, Settings]) -> dict[str, Settings]:
        for name, own in datasets.items():
            tables = own.get(BY_MEMBERS, {})
            if not isinstance(tables, dict) or not all(
                key.isdecimal() and isinstance(table, dict) for key, table in tables.items()
            ):
                told = f"{name}.{BY_MEMBERS} takes a table for each number of members, such as 5 = {{ eps = 0.05 }}"
                raise ValueError(f"{told}, not {tables!r:.80}")
        return datasets

    def settings_on(self, dataset: str, members: int) -> Settings:
        """What the file says of the plug-in's settings on a data set, for this number of members."""
        own = dict(self.datasets.get(dataset, {}))
        by_members = own.pop(BY_MEMBERS, {})
        return {**self.settings, **own, **by_members.get(str(members), {})}

    def placed_on(self, other: MethodSpec) -> MethodSpec:
        """With all that the file says of the method it is on as its own setting `on`, wherever that differs."""

        def at(own: Settings, settings: Settings) -> Settings:
            return {**own, "on": {"method": self.on, "plugin": other.plugin, "settings": settings}}

        datasets = {}
        for name in {**self.datasets, **other.datasets}:
            own = self.datasets.get(name, {})
            mine = own.get(BY_MEMBERS, {})
            numbers = {**mine, **other.datasets.get(name, {}).get(BY_MEMBERS, {})}
            tables = {n: at(mine.get(n, {}), other.settings_on(name, int(n))) for n in numbers}
            datasets[name] = at({**own, **({BY_MEMBERS: tables} if tables else {})}, other.settings_on(name, 0))
        return self.model_copy(update={"settings": at(self.settings, other.settings), "datasets": datasets})

    def published_as(self, name: str) -> str | None:
        """The column of the published tables that this method, configured as `name`, is compared with."""
        return self.published or (name if self.paper else None)


class Asked(Spec):
    """What the harness decides of an attack, beside its settings and budget: configured, and part of what is measured.

    Whatever is varied here later is one more field. What is as before is in no id.
    """

    targets: Targets | None = added(None, description="classes that the attack leads to")
    precision: Precision = added("float32", description="of the passes that it asks for; float32 judges in any case")

    def asked(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in Asked.model_fields}


class AttackSpec(_WithSettings, Asked):
    """`[attacks.NAME]`: a configured attack and its budgets on each data set."""

    plugin: str
    title: str = ""
    budgets: dict[str, Budgets] = Field(default_factory=dict)


class AttackRows(Spec):
    """Rows of a suite: one attack at budgets of the suite's own, the same everywhere or by data set.

    On a data set that is not among them the suite cannot be used, neither to run nor in a protocol.
    """

    attack: str
    budgets: Budgets | dict[str, Budgets]


class SuiteSpec(Spec):
    """`[suites.NAME]`: which attacks, at which budgets, and whether the transferability matrix is measured."""

    description: str
    datasets: tuple[str, ...] = ()
    attacks: tuple[str | AttackRows, ...] = ()
    matrix: bool | Literal["targeted"] = True
    blackbox: tuple[str, ...] | bool = Field(False, description="the black-box suite; or the attacks to use in it")
    certify: bool = Field(False, description="certified accuracy, as [certify] says")
    published: str | None = Field(None, description="file in results/published with the paper's values")


class MatrixSpec(Spec):
    """`[matrix]`: how the transferability matrix is measured (Figure 3 of the TRS paper)."""

    attack: str
    population: Population = "correct_all"
    budgets: dict[str, Budget]
    surrogates: tuple[str, ...] = Field(
        (), max_length=MOST, description="methods whose ensembles, of other seeds or from elsewhere, are sources too"
    )


class BlackboxSpec(Spec):
    """`[blackbox]`: attacks on surrogates whose images are tried on every victim (TRS paper, Figure 2)."""

    method: str = Field(description="method of the surrogates, or the name of an ensemble that was trained elsewhere")
    members: tuple[Annotated[int, Field(ge=2, le=MEMBERS)], ...] = Field(
        max_length=MOST, description="one surrogate for each number of members"
    )
    attacks: tuple[str, ...] = Field(min_length=1)
    restarts: int = Field(ge=1, le=MOST)
    limit: int | None = Field(None, ge=1, le=IMAGES, description="test images used where there are more")
    budgets: dict[str, Budgets]


class CertifySpec(Spec):
    """`[certify]`: certified accuracy at ℓ2 radii by randomised smoothing (Cohen et al. 2019)."""

    n0: int = Field(100, ge=1, le=IMAGES, description="draws of noise by which the class is chosen")
    n: int = Field(10_000, ge=1, le=IMAGES, description="draws by which its probability is bounded")
    alpha: float = Field(0.001, gt=0, lt=1, description="how probable a wrong certificate may be")
    limit: int | None = Field(None, ge=1, le=IMAGES, description="test images used where there are more")
    sigma: dict[str, Annotated[float, Field(gt=0, le=BUDGET)]] = Field(description="deviation of the noise")
    radii: dict[str, Budgets]


class TheorySpec(Spec):
    """`[theory]`: how diversity and the terms of the transfer theorems are measured (`bench theory`)."""

    budgets: dict[str, Budgets] = Field({}, description="radii ε of the ℓ2 ball on each data set")
    targets: Targets = "least_likely"
    steps: int = Field(20, ge=1, le=WHOLE, description="of PGD in the ℓ2 ball, for attacks with and without targets")
    limit: int = Field(500, ge=4, le=IMAGES, description="test images used where there are more")
    pairs: int = Field(200, ge=1, le=WHOLE, description="of points, drawn around images to find the smoothness β")
    searched: int = Field(32, ge=1, le=MOST, description="of these that gradient ascent goes on from")
    ascent: int = Field(15, ge=0, le=WHOLE, description="its steps")
    floor: float = Field(0.1, gt=0, le=1, description="least distance of two points, as a share of ε")
    distillation: int = Field(10, ge=1, le=WHOLE, description="steps to images with distilled features")


class ProtocolSpec(Spec):
    """`[protocols.NAME]`: what a board ranks by: a data set, a threat, attacks, images. One board for each ε.

    At one ε the attacks of `suite` in the ball of `norm` count that have a budget of at most ε there, or of ε itself
    (`smaller`); those without a ball (CW, EAD) never do. Any change of what counts asks for a higher `version`; the
    older one may stay beside it under another name, with `succeeded_by`.
    """

    version: int = Field(ge=1, le=1_000_000)
    title: str = ""
    dataset: str
    norm: Norm = "linf"
    eps: tuple[Budget, ...] = Field(min_length=1)
    suite: str = Field(description="whose attacks count, with their settings and budgets")
    smaller: bool = Field(True, description="whether attacks at smaller radii count too")
    stop: Stop = "first_success"
    images: int = Field(ge=1, description="how many test images count, the first in the fixed order")
    blackbox: bool = Field(False, description="whether the black-box suite at this ε counts too")
    precisions: tuple[Literal["float32", "mixed"], ...] = Field(
        ("float32",), min_length=1, description="that count: the first is asked for, another may stand for it"
    )
    seeds: int = Field(1, ge=1, le=1000, description="trainings that a rank asks for")
    succeeded_by: str | None = Field(None, description="the protocol that took the place of this one")

    @field_validator("eps")
    @classmethod
    def _once(cls, eps: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(eps)) != len(eps):
            raise ValueError("an ε stands there twice; each makes one board")
        return eps

    @model_validator(mode="after")
    def _precise(self) -> Self:
        if len(set(self.precisions)) != len(self.precisions):
            raise ValueError("a precision stands there twice")
        if "mixed" in self.precisions and self.stop == "last":
            raise ValueError('precision "mixed" is for stop = "first_success"; with "last" it is float32')
        return self


class StatementSpec(Spec):
    """`[statements.NAME]`: what a paper concludes of its methods, as a question to the data.

    It holds where every method of `more` has more of what it is `of` than every method of `less`: robust accuracy under
    each attack of `under` at its budgets in [attacks] (`clean`: without any, `blackbox`: the suite at its own), or
    transferability, the mean off the diagonal of the matrix of [matrix]. Of `published order` the methods of `more` are
    asked in pairs, under each row the one that the data set's published table has ahead against the other.
    """

    words: str
    publication: str = Field(description="a name in [publications]")
    place: str = Field(description="where the paper says so")
    of: Literal["robust accuracy", "transferability", "published order"] = "robust accuracy"
    under: tuple[str, ...] = Field((), description="names in [attacks], `clean` or `blackbox`")
    budgets: Literal["all", "smallest", "largest"] = Field("all", description="of each attack on the data set")
    more: tuple[str, ...] = Field(min_length=1)
    less: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.of != "transferability") != bool(self.under):
            raise ValueError("robust accuracy is `under` attacks, transferability is under that of [matrix]")
        if (self.of != "published order") != bool(self.less):
            raise ValueError("`more` is compared with `less`; only of a published order `more` is compared with itself")
        if both := sorted({*self.more} & {*self.less}):
            raise ValueError(f"{both[0]} has no more than itself: it is in `more` and in `less`")
        return self


class Training(Spec):
    """How members are trained. Rates are multiplied by `decay` at each of `decay_at` (shares of the epochs).

    With `schedule = "cosine"` they fall from `lr` towards `lr_end` along half a cosine instead.
    """

    epochs: int = Field(ge=1, le=EPOCHS)
    batch_size: int = Field(128, ge=4, le=BATCH)
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    eps: float = Field(1e-8, gt=0)
    decay: float = Field(0.1, gt=0, le=1)
    decay_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    augment: bool = True
    limit: int | None = Field(None, ge=4, le=IMAGES, description="train on this many images only")
    precision: OfPasses = Field("float32", description="of the members' passes; evaluations are in float32")
    schedule: Literal["steps", "cosine"] = added("steps", description="how the learning rate falls")
    lr_end: float = added(0.0, ge=0, allow_inf_nan=False, description="where a cosine leads to")

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.schedule == "cosine" and self.decay_at:
            raise ValueError('schedule = "cosine" has no steps: set decay_at = [] beside it')
        if self.schedule == "steps" and self.lr_end:
            raise ValueError('lr_end is where a cosine leads to: set schedule = "cosine" beside it')
        return self


class Watching(Spec):
    """How a training is watched on held-out images, and which of its epochs is kept; beside `Training` in a recipe.

    A monitor is an attack with its settings, `[LABEL=]ATTACK[:SETTING=VALUE,…]` (`bench.experiment.monitors`).
    """

    monitor: tuple[Annotated[str, Field(min_length=1, max_length=500)], ...] = Field((), max_length=100)
    monitor_every: int = Field(1, ge=1, le=EPOCHS, description="epochs; the last of a phase is always measured")
    keep: str = Field(
        "last", pattern=r"^(last|best:.+)$", description="`last`, or `best:LABEL`: by a monitor, or by `clean` accuracy"
    )

    @field_validator("monitor", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def trained_and_watched(table: dict[str, Any]) -> tuple[Training, Watching]:
    """Both parts of a table that says how members are trained.

    Raises:
        ValidationError: a key or value that fits neither.
    """
    watching = {key: value for key, value in table.items() if key in Watching.model_fields}
    rest = {key: value for key, value in table.items() if key not in watching}
    return Training.model_validate(rest), Watching.model_validate(watching)


OF_TRAINING = (*Training.model_fields, *Watching.model_fields)
"""The keys of a recipe, and of `--set training.…`, that say how members are trained."""


class RecipeSpec(Spec):
    """`[recipes.NAME.DATASET]`: model, members and training; `methods.M` holds what one method needs otherwise.

    That is training, and `members` where the method is for a single model, say. `[recipes.NAME.default]` is for any
    data set that the recipe has no table for.
    """

    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="what else it is called on this data set, by commands and by what is stored"
    )
    extends: str | None = Field(None, description="a data set of the same recipe, or RECIPE.DATASET")
    model: str | None = None
    members: int | None = Field(None, ge=1, le=MEMBERS)
    test_limit: int | None = Field(None, ge=1, le=IMAGES, description="test images used unless --limit says otherwise")
    validation: int | None = Field(
        None, ge=0, le=IMAGES, description="training images held out unless data.validation says otherwise"
    )
    training: Settings = Field(default_factory=dict)
    methods: dict[str, Settings] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        training = {key: value for key, value in table.items() if key in OF_TRAINING}
        rest = {key: value for key, value in table.items() if key not in training}
        return {**rest, "training": {**training, **rest.get("training", {})}}

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        for method, table in (("", self.training), *self.methods.items()):
            own = {key: value for key, value in table.items() if not method or key != "members"}
            try:
                trained_and_watched({"epochs": 1, **own})
            except ValidationError as error:
                where = f"methods.{method}: " if method else ""
                raise ValueError(f"{where}{explain(error)}") from error
        return self


class Config(Spec):
    """All of `bench.toml`."""

    datasets: dict[str, DatasetSpec]
    models: dict[str, ModelSpec]
    recipes: dict[str, dict[str, RecipeSpec]]
    methods: dict[str, MethodSpec]
    attacks: dict[str, AttackSpec]
    matrix: MatrixSpec
    blackbox: BlackboxSpec | None = None
    certify: CertifySpec | None = None
    theory: TheorySpec = TheorySpec()
    suites: dict[str, SuiteSpec]
    protocols: dict[str, ProtocolSpec] = Field(default_factory=dict)
    publications: dict[str, PublicationSpec] = Field(default_factory=dict)
    statements: dict[str, StatementSpec] = Field(default_factory=dict)
    authors: dict[str, str] = Field(default_factory=dict)
    """Method → the name that `bench evaluate` gave the weights of it that its authors published."""

    @field_validator("methods")
    @classmethod
    def _on_others(cls, methods: dict[str, MethodSpec]) -> dict[str, MethodSpec]:
        placed = {}
        for name, method in methods.items():
            if method.on is not None and method.on not in methods:
                raise ValueError(f"{name}.on: {unknown_name('method', method.on, methods)}")
            if method.on is not None and methods[method.on].on is not None:
                raise ValueError(
                    f"{name} is on {method.on}, which is itself on {methods[method.on].on}: one is allowed"
                )
            placed[name] = method if method.on is None else method.placed_on(methods[method.on])
        return placed

    @property
    def fusions(self) -> dict[str, Any]:
        """None: a fusion rule has no settings, so that there is nothing to configure."""
        return {}

    @property
    def aliases(self) -> dict[tuple[str, str], str]:
        """(data set, alias) → the recipe that is meant."""
        return {
            (dataset, alias): name
            for name, parts in self.recipes.items()
            for dataset, part in parts.items()
            for alias in part.aliases
        }

    def recipe_of(self, name: str, dataset: str) -> str:
        """The recipe that is meant by `name` on a data set: the one whose alias it is there, or itself."""
        return self.aliases.get((dataset, name), name)

    def recipes_of(self, dataset: str) -> list[str]:
        """The recipes that say something about a data set."""
        return [name for name, parts in self.recipes.items() if dataset in parts]

    def extended(self, name: str, part: RecipeSpec) -> tuple[str, str] | None:
        """Recipe and data set that a part of the recipe `name` extends; None where there is no such part."""
        base = part.extends or ""
        for recipe, dataset in ((name, base), base.partition(".")[::2]):
            recipe = self.recipe_of(recipe, dataset)
            if dataset in self.recipes.get(recipe, {}):
                return recipe, dataset
        return None
