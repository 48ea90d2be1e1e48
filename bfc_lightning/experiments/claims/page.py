"""`claims.html`: one file with everything in it, pictures included."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from bfc_lightning.experiments.claims.results import bound_in_words, interval_in_words, tally

_DOTS_PER_INCH = 130


def as_html(content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page of all claims.

    Args:
        content: of `claims.json`.
        pictures: PNG files in base64, by the name of the claim.

    Returns:
        The text of a page that loads nothing from elsewhere.
    """
    environment = Environment(
        loader=PackageLoader("bfc_lightning.experiments.claims", "."), autoescape=True
    )
    environment.globals.update(bound=bound_in_words, interval=interval_in_words, revision=revision)
    environment.filters.update(revision=revision)
    counts = tally(content["claims"])
    return environment.get_template("page.html").render(**content, counts=counts, pictures=pictures)


def revision(commit: str) -> str:
    """A commit, shortened; `-dirty` stays."""
    return commit.replace(commit.removesuffix("-dirty"), commit.removesuffix("-dirty")[:10])


def encoded(figure: Figure) -> str:
    """A figure as a PNG in base64.

    Args:
        figure: any.

    Returns:
        The text after `data:image/png;base64,`.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    return base64.b64encode(file.getvalue()).decode("ascii")
