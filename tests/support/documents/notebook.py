"""The notebook in `docs/`, run without a kernel: all of its code cells in one namespace.

python tests/support/documents/notebook.py        # after an edit of its cells: run them and keep what they show
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before anybody asks for windows
from matplotlib import pyplot as plt

NOTEBOOK = Path(__file__).resolve().parents[3] / "docs" / "latents.ipynb"
DPI = 60


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run every code cell of `notebook` and put what it shows into it; the names that the cells have defined."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate([cell for cell in notebook["cells"] if cell["cell_type"] == "code"], 1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            value = evaluate("".join(cell["source"]), names)
        cell["execution_count"], cell["outputs"] = number, []
        if said.getvalue():
            text = said.getvalue().splitlines(keepends=True)
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": text})
        if value is not None:
            shown = {"text/plain": repr(value).splitlines(keepends=True)}
            result = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": shown}
            cell["outputs"].append(result)
        for figure in plt.get_fignums():
            drawn = io.BytesIO()
            plt.figure(figure).savefig(drawn, dpi=DPI, bbox_inches="tight")
            data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
            cell["outputs"].append({"output_type": "display_data", "metadata": {}, "data": data})
        plt.close("all")
    return names


def evaluate(source: str, names: dict[str, Any]) -> Any:
    """Run `source`; the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def read() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


if __name__ == "__main__":
    content = read()
    run(content)
    NOTEBOOK.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
