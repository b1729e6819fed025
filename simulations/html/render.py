"""Renders the report: static text and figures by Jinja, pictures by the page's own script from the embedded data."""

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_SCRIPTS: Final = {
    "report.html": ("base.js", "fleet.js", "charts.js", "placement.js", "story.js", "main.js"),
    "advise.html": ("base.js", "fleet.js", "advise.js"),
}
"""Pages, and the scripts of each in order."""


def _read(name: str) -> str:
    return resources.files("simulations.html").joinpath(name).read_text("utf-8")


def render(page: dict[str, Any], data: dict[str, Any], template: str = "report.html") -> str:
    """The page as text. `page` holds what the templates name, `data` what the script draws.

    Raises jinja2's UndefinedError for a missing name.
    """
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = "\n".join(_read(f"scripts/{name}") for name in _SCRIPTS[template])
    return environment.get_template(template).render(
        **page,
        css=Markup(_read("report.css")),
        script=Markup(script),
        data_json=Markup(_script_json(data)),
    )


def _script_json(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def write(path: Path, page: dict[str, Any], data: dict[str, Any], template: str = "report.html") -> None:
    """Render into a file; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page, data, template), encoding="utf-8")
