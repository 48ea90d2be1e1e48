"""Files of claims, for tests."""

from pathlib import Path

import yaml

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
    """A claim in a file of its own, about the experiment `few.yaml` of the folder."""
    (folder / "few.yaml").touch()
    runs = {"quick": "few.yaml", "full": "few.yaml"}
    content = {**WORDS, "runs": runs, "conditions": [RATIO], **changes}
    (folder / "claims").mkdir(exist_ok=True)
    path = folder / "claims" / f"{name}.yaml"
    content["runs"] = {profile: f"../{file}" for profile, file in content["runs"].items()}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
