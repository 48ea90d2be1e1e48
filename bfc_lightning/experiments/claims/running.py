"""From claims to verdicts: each comparison that they need is run once, and then they are judged."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfc_lightning.callbacks.environment import versions
from bfc_lightning.callbacks.summary import git_revision
from bfc_lightning.experiments.claims.claim import Claim
from bfc_lightning.experiments.claims.page import as_html, encoded
from bfc_lightning.experiments.claims.pictures import claim_figure
from bfc_lightning.experiments.claims.results import as_json, as_markdown
from bfc_lightning.experiments.claims.verdicts import Judgment, judge
from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.experiments.execution import Outcome
from bfc_lightning.experiments.results import metric_names
from bfc_lightning.files import write_atomically, write_json

RESULT, PAGE, TEXT = "claims.json", "claims.html", "claims.md"
RUNS = "runs"


@dataclass(frozen=True)
class Evidence:
    """A comparison, and the claims that are judged by it.

    Attributes:
        name: of its folder.
        comparison: what is run.
        claims: at least one.
    """

    name: str
    comparison: Comparison
    claims: Sequence[Claim]


@dataclass
class Record:
    """What is known so far, and the files that say it.

    Args:
        folder: of the files.
        profile: that is run.
        command: that runs it.
        order: names of the claims, as the files list them.
    """

    folder: Path
    profile: str
    command: str
    order: Sequence[str]
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    revisions: set[str] = field(default_factory=set)
    pictures: dict[str, str] = field(default_factory=dict)

    def add(self, judgment: Judgment, part: Evidence, outcome: Outcome) -> None:
        """Takes in one claim.

        Args:
            judgment: of the claim.
            part: whose runs it is judged by.
            outcome: of its comparison.
        """
        name = judgment.claim.name
        self.revisions.update(row.summary["git"] for row in outcome.rows if row.summary.get("git"))
        self.claims[name] = as_json(judgment, runs=f"{RUNS}/{part.name}")
        figure = claim_figure(judgment, part.comparison, outcome.rows)
        if figure is not None:
            self.pictures[name] = encoded(figure)

    def write(self) -> None:
        """Writes `claims.json`, `claims.md` and `claims.html`."""
        known = [self.claims[name] for name in self.order if name in self.claims]
        content = {
            "status": "finished" if len(known) == len(self.order) else "running",
            "profile": self.profile,
            "command": self.command,
            "versions": versions(),
            "git": git_revision(),
            "revisions": sorted(self.revisions),
            "claims": known,
        }
        write_json(self.folder / RESULT, content)
        write_atomically(self.folder / TEXT, as_markdown(content))
        write_atomically(self.folder / PAGE, as_html(content, self.pictures))


def unknown_metrics(part: Evidence, outcome: Outcome) -> list[str]:
    """Metrics that the claims ask for and no run logged: most likely misspelled.

    Args:
        part: a comparison with its claims.
        outcome: of the comparison.

    Returns:
        Their names.
    """
    asked = [
        term.metric
        for claim in part.claims
        for condition in claim.conditions
        for term in condition.terms
    ]
    known = metric_names(outcome.rows)
    return [metric for metric in dict.fromkeys(asked) if known and metric not in known]


def run_claims(
    evidence: Iterable[Evidence],
    record: Record,
    *,
    run: Callable[[Evidence], Outcome],
    say: Callable[[Judgment], None],
) -> int:
    """Runs what is missing, comparison by comparison, and judges the claims of each.

    Args:
        evidence: each comparison, with its claims.
        record: to be filled.
        run: runs a comparison in its folder.
        say: tells a judgment to the user.

    Returns:
        The signal that stopped it, 0 if none.
    """
    record.write()
    for part in evidence:
        outcome = run(part)
        if outcome.signum:
            return outcome.signum
        for claim in part.claims:
            judgment = judge(claim, part.comparison, outcome.rows)
            record.add(judgment, part, outcome)
            say(judgment)
        record.write()
    return 0
