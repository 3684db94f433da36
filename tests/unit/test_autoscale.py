"""How many inference pods a job has, and which go."""

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_core.coordination.records import EngineSpeed, Load
from tandem_core.job.hybrid import ElasticSpec
from tandem_core.phases import Phase
from tandem_operator.plan.autoscale import DRAIN_SECONDS, STALE_SECONDS, InferencePods, plan_replicas

NOW = 1_000_000.0
LONG_AGO = NOW - 10_000
ELASTIC = ElasticSpec(min=0, max=8, target_seconds=100)
FAST = EngineSpeed(serving=1, tokens_per_second_per_answer=10, answers_per_engine=10)  # 100 tokens a second
HYBRID = 2


def load(tokens: float, **changes: object) -> Load:
    """Two hybrid engines do 20,000 tokens in the target time, and each inference pod 10,000 more."""
    values = {
        "phase": Phase.ROLLOUT,
        "outstanding_tokens": tokens,
        "phase_tokens": tokens,
        "hybrid": FAST,
        "measured_at": NOW,
    }
    return Load.model_validate(values | changes)


def pods(count: int, draining: tuple[str, ...] = (), replicas: int | None = None) -> InferencePods:
    names = tuple(f"pod-{number}" for number in range(count))
    return InferencePods(count if replicas is None else replicas, names, frozenset(names), draining)


@pytest.mark.parametrize(
    ("tokens", "current", "last", "replicas", "draining"),
    [
        pytest.param(20_000, 0, LONG_AGO, 0, (), id="hybrid pods are enough"),
        pytest.param(50_000, 0, LONG_AGO, 3, (), id="all that are needed come at once"),
        pytest.param(50_000, 1, NOW, 3, (), id="also just after another change"),
        pytest.param(5_000_000, 3, LONG_AGO, 8, (), id="no more than max"),
        pytest.param(52_000, 3, LONG_AGO, 3, (), id="a little more than there is"),
        pytest.param(38_000, 2, LONG_AGO, 2, (), id="a little less"),
        pytest.param(20_000, 3, LONG_AGO, 3, ("pod-2",), id="one drains, the newest"),
        pytest.param(20_000, 3, NOW - 99, 3, (), id="not so soon after another change"),
        pytest.param(10_000, 1, LONG_AGO, 1, ("pod-0",), id="the last one, where hybrid pods are fast enough"),
        pytest.param(20_000, 1, LONG_AGO, 1, (), id="but not where they only just are"),
    ],
)
def test_the_number_follows_the_tokens(
    tokens: float, current: int, last: float, replicas: int, draining: tuple[str, ...]
) -> None:
    plan = plan_replicas(ELASTIC, HYBRID, load(tokens), pods(current), last, NOW)
    assert (plan.replicas, plan.draining) == (replicas, draining)


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param(None, id="nothing is known"),
        pytest.param(load(1e9, measured_at=NOW - STALE_SECONDS - 1), id="of long ago"),
        pytest.param(load(1e9, phase=Phase.TRAINING), id="of another phase"),
        pytest.param(load(1e9, hybrid=EngineSpeed(serving=2)), id="no engine has told its speed"),
        pytest.param(load(0), id="the length of answers is not known"),
    ],
)
def test_what_says_nothing_about_now_changes_nothing(measured: Load | None) -> None:
    assert plan_replicas(ELASTIC, HYBRID, measured, pods(3), LONG_AGO, NOW).replicas == 3


@pytest.mark.parametrize(
    ("inference", "replicas"),
    [
        pytest.param(EngineSpeed(tokens_per_second_per_answer=5, answers_per_engine=10), 6, id="half as fast"),
        pytest.param(EngineSpeed(tokens_per_second_per_answer=40, answers_per_engine=1), 3, id="not full: like others"),
        pytest.param(EngineSpeed(), 3, id="none yet: like others"),
    ],
)
def test_inference_engines_count_by_their_own_speed(inference: EngineSpeed, replicas: int) -> None:
    assert plan_replicas(ELASTIC, HYBRID, load(50_000, inference=inference), pods(0), None, NOW).replicas == replicas


@pytest.mark.parametrize(
    ("elastic", "current", "replicas", "draining"),
    [
        pytest.param(ElasticSpec(min=2, max=4), 0, 2, (), id="min was raised"),
        pytest.param(ElasticSpec(min=0, max=1), 3, 3, ("pod-2", "pod-1"), id="max was lowered"),
        pytest.param(ElasticSpec(min=1, max=5, scaler="external", replicas=4), 1, 4, (), id="external, more"),
        pytest.param(ElasticSpec(min=1, max=5, scaler="external", replicas=9), 1, 5, (), id="external, within max"),
        pytest.param(ElasticSpec(min=0, max=5, scaler="external"), 1, 1, ("pod-0",), id="external, not set"),
    ],
)
def test_what_the_specification_says_holds_at_once(
    elastic: ElasticSpec, current: int, replicas: int, draining: tuple[str, ...]
) -> None:
    plan = plan_replicas(elastic, HYBRID, None, pods(current), NOW, NOW)
    assert (plan.replicas, plan.draining) == (replicas, draining)


def test_pods_that_are_not_ready_go_first() -> None:
    current = replace(pods(3), ready=frozenset({"pod-1", "pod-2"}))
    elastic = ElasticSpec(max=8, scaler="external", replicas=2)
    assert plan_replicas(elastic, HYBRID, None, current, LONG_AGO, NOW).draining == ("pod-0",)


def test_pods_that_are_not_there_yet_need_not_drain() -> None:
    elastic = ElasticSpec(max=8, scaler="external", replicas=1)
    plan = plan_replicas(elastic, HYBRID, None, pods(2, replicas=5), LONG_AGO, NOW)
    assert (plan.replicas, plan.draining) == (2, ("pod-1",))


@pytest.mark.parametrize(
    ("answers", "last", "replicas"),
    [
        pytest.param({"pod-2": 5}, NOW, 3, id="it still works"),
        pytest.param({}, NOW, 3, id="the master has not heard yet"),
        pytest.param({"pod-2": 0}, NOW, 2, id="it has handed all back"),
        pytest.param({"pod-2": 5}, NOW - DRAIN_SECONDS, 2, id="it takes too long"),
    ],
)
def test_a_pod_goes_when_it_has_handed_back_its_answers(answers: dict[str, int], last: float, replicas: int) -> None:
    told = load(20_000, draining=answers, phase=Phase.TRAINING)
    plan = plan_replicas(ELASTIC, HYBRID, told, pods(3, draining=("pod-2",)), last, NOW)
    assert (plan.replicas, plan.draining) == (replicas, ("pod-2",))


def test_a_pod_that_is_about_to_be_deleted_is_not_counted_twice() -> None:
    told = load(20_000, draining={"pod-2": 0})
    plan = plan_replicas(ELASTIC, HYBRID, told, pods(3, draining=("pod-2",), replicas=2), NOW, NOW)
    assert (plan.replicas, plan.draining) == (2, ("pod-2",))
    gone = plan_replicas(ELASTIC, HYBRID, told, pods(2, draining=("pod-2",)), NOW, NOW)
    assert (gone.replicas, gone.draining) == (2, ())


def test_a_pod_that_drains_stays_if_it_is_needed_again() -> None:
    plan = plan_replicas(ELASTIC, HYBRID, load(60_000), pods(3, draining=("pod-2",)), NOW, NOW)
    assert (plan.replicas, plan.draining) == (4, ())


TOKENS = st.floats(min_value=0, max_value=1e7)
KNOWN_TOKENS = TOKENS.filter(lambda tokens: tokens > 0)
"""0 says that nothing is known."""
COUNTS = st.integers(min_value=0, max_value=10)


@st.composite
def situations(draw: st.DrawFn) -> tuple[ElasticSpec, Load, InferencePods, float]:
    least = draw(COUNTS)
    elastic = ElasticSpec(min=least, max=draw(st.integers(min_value=least, max_value=12)), target_seconds=100)
    names = tuple(f"pod-{number}" for number in range(draw(COUNTS)))
    draining = tuple(draw(st.sets(st.sampled_from(names)))) if names else ()
    ready = draw(st.frozensets(st.sampled_from(names))) if names else frozenset()
    answers = {pod: draw(st.integers(min_value=0, max_value=3)) for pod in draining}
    current = InferencePods(draw(COUNTS), names, ready, draining)
    return elastic, load(draw(TOKENS), draining=answers), current, NOW - draw(st.floats(min_value=0, max_value=1000))


@given(situations())
def test_no_pod_goes_before_it_drains_and_never_are_there_more_than_allowed(
    situation: tuple[ElasticSpec, Load, InferencePods, float],
) -> None:
    elastic, told, current, last = situation
    plan = plan_replicas(elastic, HYBRID, told, current, last, NOW)
    assert set(plan.draining) <= set(current.pods)
    assert plan.replicas <= max(elastic.max, current.replicas)
    assert plan.replicas >= min(elastic.min, current.replicas)
    removed = min(current.replicas, len(current.pods)) - plan.replicas
    assert removed <= len([pod for pod in current.draining if pod in current.pods])
    if plan.replicas < len(current.pods):
        surplus_before = max(0, len(current.pods) - current.replicas)
        assert len(current.pods) - plan.replicas <= surplus_before + len(plan.draining)


@given(KNOWN_TOKENS, KNOWN_TOKENS, COUNTS)
def test_more_tokens_never_mean_fewer_pods(first: float, second: float, current: int) -> None:
    plans = [
        plan_replicas(ELASTIC, HYBRID, load(each), pods(current), LONG_AGO, NOW) for each in sorted((first, second))
    ]
    fewer, more = (plan.replicas - len(plan.draining) for plan in plans)
    assert fewer <= more


@dataclass
class Cluster:
    """Carries plans out: pods come and hand back their answers with the next step."""

    elastic: ElasticSpec
    current: InferencePods
    now: float = NOW
    last: float | None = None
    made: int = 100
    changes: int = 0

    def step(self, told: Load, seconds: float = 10) -> None:
        self.now += seconds
        answers = dict.fromkeys(self.current.draining, 0)
        told = told.model_copy(update={"measured_at": self.now, "draining": answers})
        plan = plan_replicas(self.elastic, HYBRID, told, self.current, self.last, self.now)
        if plan.replicas < len(self.current.pods):
            names = tuple(pod for pod in self.current.pods if pod not in plan.draining)[: plan.replicas]
        else:
            extra = plan.replicas - len(self.current.pods)
            names = (*self.current.pods, *(f"pod-{self.made + number}" for number in range(extra)))
            self.made += extra
        if (plan.replicas, plan.draining) != (self.current.replicas, self.current.draining):
            self.last = self.now
            self.changes += plan.replicas != self.current.replicas
        self.current = InferencePods(plan.replicas, names, frozenset(names), plan.draining)


@given(st.floats(min_value=1, max_value=200_000), COUNTS)
def test_a_constant_load_comes_to_a_constant_number(tokens: float, begin: int) -> None:
    cluster = Cluster(ELASTIC, pods(begin))
    for _ in range(400):
        cluster.step(load(tokens))
    settled, changes = cluster.current, cluster.changes
    for _ in range(100):
        cluster.step(load(tokens))
    assert (cluster.current.replicas, cluster.changes) == (settled.replicas, changes)
    need = max(0.0, tokens / 10_000 - HYBRID)
    band = 0.15 * (HYBRID + need) + 1
    assert min(8, need) - band <= cluster.current.replicas <= need + band


def test_noise_does_not_make_pods_come_and_go() -> None:
    """Speeds and lengths are measured 10 % wrong, at random, for 10 hours."""
    rng = random.Random(1)
    cluster = Cluster(ELASTIC, pods(0))
    for _ in range(3_600):
        cluster.step(load(55_000 * rng.uniform(0.9, 1.1)))
    assert cluster.changes <= 2
    assert 3 <= cluster.current.replicas <= 4


def test_the_number_follows_a_load_that_changes() -> None:
    cluster = Cluster(ELASTIC, pods(0))
    for tokens, replicas in ((60_000, 4), (20_000, 0), (90_000, 7)):
        for _ in range(200):
            cluster.step(load(tokens))
        assert abs(cluster.current.replicas - replicas) <= 1
