"""A report of a made-up run, read from a replay buffer as the rollout master fills it."""

import asyncio
import html
import itertools
import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tandem_core.coordination.records import Activity
from tandem_core.job import RLJob, load_job
from tandem_local.report import write_report
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.history import EvaluationSample
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.trajectory import FinishReason, Score, ScoredGroup, ScoredSample, Segment, Trajectory, VersionSpan

ROOT = Path(__file__).parents[2]
ITERATIONS = 30
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
HOSTILE = "</script><script>document.title='taken over'</script><b>&"
"""An answer that must stay text."""


def example_job(iterations: int = ITERATIONS) -> RLJob:
    return load_job(ROOT / "examples/addition.yaml", [f"spec.iterations={iterations}"])


def score(trajectory: Trajectory, iteration: int, correct: bool, text: str) -> ScoredSample:
    """A finished answer of 3 tokens from the weights before `iteration`."""
    tokens = np.arange(3, dtype=np.int32)
    spans = (VersionSpan(iteration - 1, 3),)
    trajectory.append(Segment(tokens, np.zeros(3, dtype=np.float32), spans, FinishReason.STOP, iteration))
    return ScoredSample(trajectory, text, Score(float(correct), {"reasoning-gym": float(correct)}, correct))


async def add_answers(buffer: ReplayBuffer, iteration: int, chance: float, draw: random.Random) -> None:
    """Two groups of four answers, trained on in `iteration`."""
    groups = await buffer.create_groups(iteration, [iteration * 2, iteration * 2 + 1], 4)
    scored = []
    for group in groups:
        samples = [
            score(
                trajectory, iteration, draw.random() < chance, HOSTILE if iteration == 1 else str(draw.randrange(200))
            )
            for trajectory in group.trajectories
        ]
        await buffer.save(samples)
        scored.append(ScoredGroup(group.id, group.prompt_id, group.created_iteration, tuple(samples)))
    await buffer.record_batch(iteration, b"batch", scored)


def build_activities(start: float, seconds: dict[str, float], pod: int) -> list[Activity]:
    """What the containers of one hybrid pod do in an iteration that begins at `start`."""
    edges = [start]
    for name in ("Rollout", "Draining", "Training", "Publishing", "Loading"):
        edges.append(edges[-1] + seconds[name])
    late = pod * 0.1
    spans = [
        ("generate", edges[0] + late, edges[1]),
        ("release", edges[1], edges[2]),
        ("load", edges[2] - 0.05, edges[2] + 0.1),
        ("train", edges[2] + 0.1, edges[3] - late / 4),
        ("publish", edges[3], edges[4]),
        ("offload", edges[4], edges[4] + 0.08),
        ("update", edges[4] + 0.02, edges[5] - late / 4),
    ]
    return [Activity(name=name, started_at=begin, ended_at=max(begin, end)) for name, begin, end in spans]


async def add_iteration(
    buffer: ReplayBuffer, iteration: int, start: float, chance: float, draw: random.Random
) -> float:
    """Metrics, phases and activities of one iteration; returns when it ended."""
    seconds = {
        "Rollout": 2.4 + draw.random() + (6 if iteration % 23 == 7 else 0),
        "Draining": 0.2 + 0.1 * draw.random(),
        "Training": 1.5 + 0.3 * draw.random(),
        "Publishing": 0.12 + 0.03 * draw.random(),
        "Loading": 0.5 + 0.2 * draw.random(),
    }
    metrics = {
        "reward": min(1.0, max(0.0, chance + draw.gauss(0, 0.04))),
        "correct": chance,
        "loss": 0.4 * math.exp(-iteration / 80) + draw.gauss(0, 0.02),
        "gradient_norm": 1 + draw.random(),
        "logprob_difference_mean": 0.002 + 0.0005 * draw.random(),
        "logprob_difference_max": 0.02 + 0.02 * draw.random(),
        "response_tokens": 3 + chance,
        "response_tokens_max": 4.0,
        "truncated": 0.1 * draw.random(),
        "repetitive": 0.0,
        "continued": 0.05,
        "versions_behind": 0.1 * draw.random(),
        "tokens_per_second": 900 + 200 * draw.random(),
        "samples": 256.0,
        "kl": 0.001 * draw.random(),
    }
    if iteration == 5:
        metrics["loss"] = math.nan
    await buffer.record_iteration(iteration, version=iteration, metrics=metrics, phase_seconds=seconds)
    for pod in range(2):
        await buffer.add_activities(f"addition-hybrid-{pod}", iteration, build_activities(start, seconds, pod))
    return start + sum(seconds.values())


def build_evaluation(chance: float, draw: random.Random) -> list[EvaluationSample]:
    """50 greedy answers, a share `chance` of them right."""
    samples = []
    for number in range(50):
        first, second = draw.randrange(10, 99), draw.randrange(10, 99)
        correct = number < round(50 * chance)
        text = str(first + second + (0 if correct else 1))
        samples.append(
            EvaluationSample(
                prompt_id=9000 + number,
                prompt=f"Calculate {first} + {second}.",
                answer=str(first + second),
                text=text,
                tokens=tuple(int(digit) for digit in text),
                reward=float(correct),
                correct=correct,
            )
        )
    return samples


async def fill_history(path: Path, job: RLJob, iterations: int = ITERATIONS) -> None:
    """A run that learns: half right at first, nearly all in the end."""
    draw = random.Random(7)
    async with ReplayBuffer(sqlite_url(path), job.metadata.uid or "a-uid") as buffer:
        start = 1_700_000_000.0
        warmup = {"Warmup": 21.5, "Publishing": 0.2, "Loading": 4.1}
        await buffer.record_iteration(0, version=0, metrics={"loss": 0.41}, phase_seconds=warmup)
        await buffer.record_evaluation(0, 0, build_evaluation(0.5, draw))
        for iteration in range(1, iterations + 1):
            chance = 0.97 - 0.47 * math.exp(-3 * iteration / iterations)
            await add_answers(buffer, iteration, chance, draw)
            start = await add_iteration(buffer, iteration, start, chance, draw)
            if iteration % max(1, iterations // 6) == 0:
                await buffer.record_evaluation(iteration, iteration, build_evaluation(chance, draw))


async def make_empty_history(path: Path) -> None:
    async with ReplayBuffer(sqlite_url(path), "a-uid"):
        pass


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    asyncio.run(fill_history(directory / "replay.db", example_job()))
    output = directory / "out" / "report.html"
    write_report(directory / "replay.db", example_job(), output)
    return output


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="contents">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    contents: dict[str, Any] = json.loads(found.group(1))
    return contents


def test_the_page_shows_what_was_reached_and_what_it_cost(report: Path) -> None:
    page = report.read_text()
    assert "<h1>addition</h1>" in page
    assert "30 of 30 iterations" in page
    assert re.search(r"50\.0% → 9\d\.0%", page)
    assert "Inference to training" in page
    assert "tensorParallel: 1" in page


def test_every_number_that_is_drawn_comes_from_the_history(report: Path) -> None:
    contents = embedded(report.read_text())
    assert contents["iterations"] == list(range(1, 31))
    figures = {figure["title"]: figure for figure in contents["figures"]}
    reward = figures["Reward"]
    assert [line["label"] for line in reward["lines"]] == ["reward", "moving average"]
    assert reward["points"]["iterations"] == [0, 5, 10, 15, 20, 25, 30]
    assert reward["points"]["values"][0] == 0.5
    assert figures["Loss"]["lines"][0]["values"][4] is None
    assert all(len(line["values"]) == 30 for figure in contents["figures"] for line in figure["lines"])
    more = {figure["title"] for figure in contents["more_figures"]}
    assert {"kl", "logprob difference max"} <= more
    assert "samples" not in more


def test_phases_and_switches_are_summed_up(report: Path) -> None:
    phases = embedded(report.read_text())["phases"]
    assert phases["names"] == ["Rollout", "Draining", "Training", "Publishing", "Loading"]
    rows = {row["phase"]: row for row in phases["rows"]}
    assert rows["Warmup"]["total"] == 21.5
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1, abs=1e-3)
    assert rows["Rollout"]["longest"] > 6 > rows["Rollout"]["median"]


def test_rows_of_the_timeline_have_no_overlapping_bars(report: Path) -> None:
    timeline = embedded(report.read_text())["timeline"]
    assert {lane["pod"] for lane in timeline["lanes"]} == {"addition-hybrid-0", "addition-hybrid-1"}
    assert len(timeline["bars"]) == 30 * 2 * 7
    for lane in range(len(timeline["lanes"])):
        bars = [bar for bar in timeline["bars"] if bar["lane"] == lane]
        assert all(first["end"] <= second["start"] + 1e-3 for first, second in itertools.pairwise(bars))


def test_answers_are_there_and_stay_text(report: Path) -> None:
    page = report.read_text()
    assert HOSTILE not in page
    contents = embedded(page)
    assert {sample["iteration"] for sample in contents["samples"]} == set(range(1, 31))
    assert contents["samples"][0]["text"] == HOSTILE
    assert {sample["correct"] for sample in contents["evaluation_samples"]} == {True, False}


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    page = report.read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert report.stat().st_size < 1_000_000


def test_a_run_that_has_not_begun_gives_a_page_too(tmp_path: Path) -> None:
    asyncio.run(make_empty_history(tmp_path / "empty.db"))
    write_report(tmp_path / "empty.db", example_job(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "No iteration is recorded yet" in page
    assert embedded(page)["iterations"] == []


def test_a_missing_history_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.db"):
        write_report(tmp_path / "absent.db", example_job(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def browse(page: Path, profile: Path, *arguments: str) -> str:
    """The page's document after its scripts have run."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
        f"--user-data-dir={profile}",
        "--virtual-time-budget=3000",
        *arguments,
        page.as_uri(),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="CHROMIUM IS NOT INSTALLED: nobody has looked at the report's drawings"
)
OPERATE = """<script>
addEventListener("error", (event) => { document.body.dataset.failed = event.message; });
const choose = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("change")); };
const point = (svg, kind, x) => {
  const box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent(kind, {clientX: box.left + x * box.width, clientY: box.top + 60,
    pointerType: "mouse", button: 0, pointerId: 1}));
};
SVGElement.prototype.setPointerCapture = () => {};
const drag = (svg, from, to) => {
  point(svg, "pointerdown", from);
  point(svg, "pointermove", to);
  point(svg, "pointerup", to);
};
const widest = () => document.querySelector("#figures svg");
const seen = {};
point(widest(), "pointermove", 0.5);
seen.tip = document.querySelector("#figures .tip").textContent;
drag(widest(), 0.4, 0.6);
seen.zoomed = [view.from, view.to];
widest().dispatchEvent(new MouseEvent("dblclick"));
seen.whole = [view.from, view.to];
choose("window-size", "3");
choose("window-start", "4");
seen.bars = [...document.querySelectorAll("#gantt rect")].filter((box) => box.bar).map((box) => box.bar.iteration);
drag(document.querySelector("#gantt svg"), 0.1, 0.3);
seen.zoomedBars = [...document.querySelectorAll("#gantt rect")].filter((box) => box.bar).length;
choose("sample-kind", "evaluation_samples");
choose("sample-iteration", "0");
choose("sample-filter", "wrong");
seen.wrong = document.querySelectorAll(".sample .wrong").length;
seen.shown = document.querySelectorAll(".sample").length;
document.body.dataset.seen = JSON.stringify(seen);
</script>"""
"""What a reader does, and what then is to be seen."""


@needs_chromium
def test_a_browser_draws_all_of_it(report: Path, tmp_path: Path) -> None:
    document = browse(report, tmp_path / "profile", "--dump-dom")
    assert 'data-ready="true"' in document
    assert "taken over" not in document.split("</title>")[0]
    assert document.count("<svg") == len(re.findall(r'<figure class="panel', document)) + 1
    assert document.count('class="sample"') == 8
    assert document.count("<rect") > 2 * 7 * 10
    assert "NaN" not in document.partition('id="contents"')[0]


@needs_chromium
def test_figures_zoom_and_answers_are_filtered(report: Path, tmp_path: Path) -> None:
    operated = tmp_path / "operated.html"
    operated.write_text(report.read_text().replace("</body>", OPERATE + "</body>"))
    document = browse(operated, tmp_path / "profile", "--dump-dom")
    assert "data-failed" not in document
    found = re.search(r'data-seen="([^"]*)"', document)
    assert found is not None
    seen = json.loads(html.unescape(found.group(1)))
    assert re.match(r"iteration 1\dreward .*moving average", seen["tip"])
    assert 9 < seen["zoomed"][0] < seen["zoomed"][1] < 21
    assert seen["whole"] == [1, 30]
    assert set(seen["bars"]) == {4, 5, 6}
    assert 0 < seen["zoomedBars"] < len(seen["bars"])
    assert seen["wrong"] == seen["shown"] == 20
