"""Pages from templates beside this file: everything escaped, and a figure that is missing is an error, not a gap."""

from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """The text of `template` with `values`.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
