"""The W&B workspace of a project, as code: one section for each stage, one that compares priors, one for a sweep.

    python dashboards/workspace.py --dry-run                                   # print its sections and panels
    python dashboards/workspace.py --json                                      # print it whole, as W&B would store it
    python dashboards/workspace.py --entity ENTITY --project PROJECT --push    # save it, print its address

Needs the extra: `pip install -c constraints.txt -e '.[dashboards]'`, and `wandb login` to push. The names of figures
are those of `expost.training.tracking`: STAGE/NAME, with NAME as in the CSV files under `logs/`.
"""

import argparse
import json
import sys
from collections.abc import Sequence

try:
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces
except ImportError:
    sys.exit("error: wandb-workspaces is not installed; pip install -c constraints.txt -e '.[dashboards]'")

NAME = "Expost"
EPOCH = "epoch"
STAGE_1_CURVES = {"loss": "Loss, nats", "distortion_nats": "Distortion, nats", "rate_nats": "Rate, nats"}
BEFORE_AND_AFTER = ("standard_normal", "learned")
BOUNDS = {"rate_nats": "Rate", "elbo_nats": "Negative ELBO", "iwae_nats": "Negative IWAE bound"}
DISTANCES = {
    "frechet_distance": "Frechet distance",
    "kernel_distance": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
}
TABLES = ("evaluation/report", "compare/comparison")
SWEPT = ("seed", "trainer.lr", "trainer.batch_size")
WIDE = panels.Layout(w=24, h=9)
RECONSTRUCTIONS = "evaluation/final/reconstructions/frechet_distance"


def workspace(entity: str, project: str) -> workspaces.Workspace:
    """The workspace of `project`; nothing is sent."""
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[stage_1(), door(), stage_2(), comparison(), sweep()],
        settings=workspaces.WorkspaceSettings(x_axis=EPOCH, group_by_prefix="first", max_runs=100),
        runset_settings=workspaces.RunsetSettings(pinned_columns=["run:group", "run:jobType", "config:seed.value"]),
    )


def stage_1() -> workspaces.Section:
    """Training of the VAE, training images beside held-out ones."""
    return section(
        "Stage 1: images to VAE",
        *(curve(title, "vae", f"train_{key}", f"val_{key}") for key, title in STAGE_1_CURVES.items()),
        bars("Held-out loss at the end, nats", "vae/final/val_loss"),
    )


def door() -> workspaces.Section:
    """What was encoded, what q(z) looks like, and the features that images are measured in."""
    return section(
        "The door: q(z|x) of every image",
        bars("Images encoded", *(f"latents/final/num_{split}" for split in ("train", "val", "test"))),
        pictures("evaluation/latents", "evaluation/reconstructions"),
        curve("Feature net: training, nats", "features", "train_nll_nats"),
        bars("Feature net: held-out accuracy", "features/final/held_out_accuracy"),
    )


def stage_2() -> workspaces.Section:
    """Fitting of the prior: by gradient over epochs, or by EM over iterations."""
    return section(
        "Stage 2: latents to prior",
        curve("-log p(z) while fitting by gradient, nats", "prior", "train_nll_nats", "val_nll_nats"),
        curve("Bound on -log p(z) while fitting by EM, nats", "prior", "train_bound_nats"),
        bars("-log p(z) of held-out latents, nats", "prior/final/val_nll_nats"),
        bars("Fit, seconds", "prior/final/seconds"),
        bars("Parameters", "prior/final/num_parameters"),
    )


def comparison() -> workspaces.Section:
    """What the learned prior bought: each figure under N(0, I) and under the learned prior, one bar a run."""
    both = {**{key: f"{title}, nats" for key, title in BOUNDS.items()}, **DISTANCES}
    return section(
        "Comparison: N(0, I) against the learned prior",
        pictures("evaluation/samples", "evaluation/interpolations", "compare/comparison_figure"),
        *(bars(title, *(f"evaluation/final/{row}/{key}" for row in BEFORE_AND_AFTER)) for key, title in both.items()),
        bars("Frechet distance: the floor that reconstructions set", RECONSTRUCTIONS),
        bars("Gap closed", "evaluation/final/learned/gap_closed"),
        *(panels.WeavePanelSummaryTable(table_name=name, layout=WIDE) for name in TABLES),
    )


def sweep() -> workspaces.Section:
    """Many runs at once: what a setting did to the figures that count, seeds of one group drawn as one bar."""
    distance, rate = (f"evaluation/final/learned/{key}" for key in ("frechet_distance", "rate_nats"))
    columns = [panels.ParallelCoordinatesPlotColumn(metric=panels.Config(name)) for name in SWEPT]
    columns += [panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric(name)) for name in (rate, distance)]
    return section(
        "Sweep",
        panels.ParallelCoordinatesPlot(title="Settings against what they bought", columns=columns, layout=WIDE),
        scatter("Rate against Frechet distance", rate, distance),
        scatter("Parameters of the prior against its rate", "evaluation/final/learned/num_parameters", rate),
        scatter("Seconds to fit against the rate", "evaluation/final/learned/fit_seconds", rate),
        bars("Rate over the seeds of a group, nats", rate, groupby="Group"),
        bars("Frechet distance over the seeds of a group", distance, groupby="Group"),
        panels.ParameterImportancePlot(with_respect_to=rate),
    )


def section(name: str, *contents: object) -> workspaces.Section:
    return workspaces.Section(name=name, panels=list(contents), is_open=True)


def curve(title: str, stage: str, *names: str) -> panels.LinePlot:
    return panels.LinePlot(title=title, x=EPOCH, y=[f"{stage}/{name}" for name in names], title_x=EPOCH)


def bars(title: str, *metrics: str, groupby: str | None = None) -> panels.BarPlot:
    grouped = {"groupby": groupby, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"} if groupby else {}
    return panels.BarPlot(title=title, metrics=list(metrics), **grouped)


def scatter(title: str, x: str, y: str) -> panels.ScatterPlot:
    return panels.ScatterPlot(title=title, x=panels.SummaryMetric(x), y=panels.SummaryMetric(y))


def pictures(*names: str) -> panels.MediaBrowser:
    return panels.MediaBrowser(media_keys=list(names), num_columns=1)


def as_json(made: workspaces.Workspace) -> str:
    """The workspace as W&B stores it, readable."""
    return json.dumps(json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)), indent=2)


def summary(made: workspaces.Workspace) -> str:
    """Its sections, and under each the titles of its panels or what they show."""
    lines = [f"{made.name}: {len(made.sections)} sections, {sum(len(part.panels) for part in made.sections)} panels"]
    for part in made.sections:
        lines += ["", f"{part.name}: {len(part.panels)} panels", *(f"  {_words(panel)}" for panel in part.panels)]
    return "\n".join(lines)


def _words(panel: object) -> str:
    """The title of a panel; of one that has none, the names that it shows, or its kind."""
    if title := getattr(panel, "title", None):
        return str(title)
    shown = getattr(panel, "media_keys", None) or getattr(panel, "table_name", None) or type(panel).__name__
    return shown if isinstance(shown, str) else ", ".join(shown)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python dashboards/workspace.py", description="The W&B workspace as code.")
    parser.add_argument("--entity", help="W&B user or team; --push needs it")
    parser.add_argument("--project", default="expost", help="as logger.project; default: expost")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dry-run", action="store_true", help="print its sections and panels, send nothing")
    what.add_argument("--json", action="store_true", help="print the whole workspace, send nothing")
    what.add_argument("--push", action="store_true", help="save it to W&B and print its address")
    asked = parser.parse_args(words)
    if asked.push and asked.entity is None:
        return refused("--push saves into a user's or a team's project: add --entity ENTITY")
    made = workspace(asked.entity or "ENTITY", asked.project)
    if not asked.push:
        print(as_json(made) if asked.json else summary(made))
        return 0
    try:
        made.save()
    except Exception as error:  # of wandb, of its GraphQL client or of the network: they share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        return refused(f"W&B did not take it ({reason}); run `wandb login`, and see --entity and --project")
    print(made.url)
    return 0


def refused(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
