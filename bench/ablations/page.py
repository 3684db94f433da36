"""docs/ablations.md and its figures."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from bench.ablations.comparing import mean_over_run, paired_difference
from bench.ablations.experiments import BASELINE, COMPARISONS, Comparison
from bench.ablations.figures import draw_comparison
from bench.ablations.runs import Run

DOCS = Path(__file__).parents[2] / "docs"
_INTRODUCTION = """# Ablations, in small

What Kimi k1.5 reports of its algorithm, tried without a GPU on a model of 0.5 M parameters that finds the last
digit of a sum step by step (`bench/ablations/job.yaml`). `make ablations` runs what
`bench/ablations/results.jsonl` lacks and writes this page.

All runs start from one model that was warmed up on other problems. A seed decides the order of prompts, the sampling
and which problems are held out, and is the same for all variants, so that differences are taken seed by seed. All but
what is compared is the same, learning rate included: a variant could do better with another one.

Accuracy is greedy, on held-out problems. *At the end*: the last evaluation. *Over the run*: mean over all iterations,
high for what learns fast. Lines are means, bands the range over seeds. A difference is given with its 95 % interval
(Student's t over seeds); **undecided** means that the interval holds 0.
"""


def write_page(runs: Sequence[Run]) -> None:
    """Write page and figures from the seeds that all variants of a comparison have; needs two."""
    sections = [_INTRODUCTION]
    (DOCS / "figures").mkdir(exist_ok=True)
    for comparison in COMPARISONS:
        complete = _complete((BASELINE, *comparison.variants), runs)
        if len({run.seed for run in complete}) >= 2:
            draw_comparison(comparison, complete, DOCS / "figures" / f"{comparison.name}.svg")
            sections.append(_describe(comparison, complete))
    (DOCS / "ablations.md").write_text("\n".join(sections))


def _complete(variants: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    """The runs of the variants by seed, those seeds left out that one of them lacks."""
    seeds = set.intersection(*({run.seed for run in runs if run.variant == variant} for variant in variants))
    return sorted((run for run in runs if run.seed in seeds and run.variant in variants), key=lambda run: run.seed)


def _describe(comparison: Comparison, runs: Sequence[Run]) -> str:
    tables = "\n\n".join(_build_table(comparison, runs, metric) for metric in comparison.metrics)
    return f"""## {comparison.title}

{comparison.question}

![{comparison.title}](figures/{comparison.name}.svg)

{len({run.seed for run in runs})} seeds, {runs[0].iterations[-1]} iterations.

{tables}
"""


def _build_table(comparison: Comparison, runs: Sequence[Run], metric: str) -> str:
    lines = [
        f"| {metric} | before | at the end (range) | over the run | difference at the end | difference over the run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    baseline_ends, baseline_means = _measure(runs, BASELINE, metric)
    for variant in (BASELINE, *comparison.variants):
        before = fmean(getattr(run, metric)[0] for run in runs if run.variant == variant)
        ends, means = _measure(runs, variant, metric)
        cells = [f"{before:.3f}", f"{fmean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f})", f"{fmean(means):.3f}"]
        if variant != BASELINE:
            cells += [_compare(ends, baseline_ends), _compare(means, baseline_means)]
        lines.append(f"| {' | '.join([variant, *cells, '', ''][:6])} |")
    return "\n".join(lines)


def _measure(runs: Sequence[Run], variant: str, metric: str) -> tuple[list[float], list[float]]:
    """By seed: the last value, and the mean over the run."""
    curves = [(run.iterations, getattr(run, metric)) for run in runs if run.variant == variant]
    return [values[-1] for _, values in curves], [mean_over_run(steps, values) for steps, values in curves]


def _compare(values: Sequence[float], references: Sequence[float]) -> str:
    difference = paired_difference(values, references)
    verdict = "" if difference.decided else ", **undecided**"
    return f"{difference.mean:+.3f} ± {difference.half_width:.3f}{verdict}"
