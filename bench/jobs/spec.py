"""The specs that jobs carry; they live in `bench.experiment.spec`, where the store reads them too."""

from bench.experiment.spec import SURROGATE_SEEDS, EvaluationSpec, Job, Kind, RunSpec, Targets

__all__ = ["SURROGATE_SEEDS", "EvaluationSpec", "Job", "Kind", "RunSpec", "Targets"]
