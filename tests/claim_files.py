"""Claims about tiny learners, for tests."""

from pathlib import Path

import yaml

from bfc_lightning.experiments.comparison import Comparison, points
from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.experiments.results import FINISHED, Row
from tests.comparisons import write

WORDS = {
    "sentence": "A wide learner is better than a narrow one.",
    "source": "ours",
    "shows": "That width <helps>.",
    "does_not_show": "Why.",
}
RATIO = {
    "what": "the narrow one has at least the error",
    "ratio": {
        "of": {"learner": "narrow", "metric": "val/nmse"},
        "to": {"learner": "wide", "metric": "val/nmse"},
    },
    "at_least": 1.0,
}


def write_claim(folder: Path, name: str = "width", **changes: object) -> Path:
    """A claim in a file of its own; its comparison, `few.yaml`, is made where there is none."""
    if not (folder / "few.yaml").exists():
        write(folder, seeds=[0, 1, 2, 3, 4])
    runs = {"quick": "few.yaml", "full": "few.yaml"}
    content = {**WORDS, "runs": runs, "conditions": [RATIO], **changes}
    (folder / "claims").mkdir(exist_ok=True)
    path = folder / "claims" / f"{name}.yaml"
    content["runs"] = {profile: f"../{file}" for profile, file in content["runs"].items()}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def rows_with(comparison: Comparison, values: dict[str, list[float | None]]) -> list[Row]:
    """Runs that finished with these values of val/nmse, learner by learner; None has no value."""
    return [
        Row(
            PlannedRun(point, seed),
            Path("nowhere"),
            FINISHED,
            {"metrics": {} if value is None else {"val/nmse": value}},
        )
        for point in points(comparison)
        for seed, value in zip(comparison.seeds, values[point.name], strict=True)
    ]
