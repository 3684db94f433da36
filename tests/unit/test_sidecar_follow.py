"""What a checkpoint engine does next."""

import pytest
from tandem_core.coordination.records import EngineState, PhaseRecord, Role
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit
from tandem_sidecar.follow import (
    Acknowledge,
    Action,
    Load,
    LoadedVersion,
    Release,
    ReleaseMode,
    Situation,
    Start,
    Stop,
    Wait,
    plan_action,
)

STARTING, IDLE, SERVING = EngineState.STARTING, EngineState.IDLE, EngineState.SERVING
RELEASED, FAILED = EngineState.RELEASED, EngineState.FAILED


def at(phase: Phase, version: int = 3) -> PhaseRecord:
    return PhaseRecord(iteration=3, phase=phase, version=version, token=9, started_at=100.0)


def commit(version: int = 3, incarnation: str = "a") -> Commit:
    return Commit(version=version, world_size=1, incarnation=incarnation, token=9, size_bytes=8, committed_at=99.0)


def plan(
    phase: PhaseRecord | None,
    state: EngineState,
    *,
    release: ReleaseMode = "restart",
    role: Role = Role.SIDECAR,
    newest: Commit | None = None,
    loaded: LoadedVersion | None = None,
    acknowledged: PhaseRecord | None = None,
    draining: bool = False,
) -> Action:
    return plan_action(Situation(role, release, phase, newest, state, loaded, acknowledged, draining))


@pytest.mark.parametrize("phase", [None, at(Phase.WARMUP), at(Phase.TRAINING), at(Phase.PUBLISHING)])
@pytest.mark.parametrize(
    ("release", "state", "expected"),
    [
        ("sleep", RELEASED, Wait()),
        ("sleep", IDLE, Release()),
        ("sleep", SERVING, Release()),
        ("sleep", FAILED, Release()),
        ("restart", RELEASED, Wait()),
        ("restart", SERVING, Release()),
        ("none", RELEASED, Start()),
        ("none", FAILED, Start()),
        ("none", IDLE, Wait()),
        ("none", SERVING, Wait()),
    ],
)
def test_while_the_trainer_works_only_an_engine_that_stays_may_run(
    phase: PhaseRecord | None, release: ReleaseMode, state: EngineState, expected: Action
) -> None:
    assert plan(phase, state, release=release, newest=commit()) == expected


@pytest.mark.parametrize(
    ("release", "state", "acknowledged", "expected"),
    [
        ("sleep", SERVING, None, Release()),
        ("sleep", IDLE, None, Release()),
        ("sleep", RELEASED, None, Acknowledge(at(Phase.DRAINING))),
        ("sleep", RELEASED, at(Phase.DRAINING), Wait()),
        ("restart", STARTING, None, Release()),
        ("restart", FAILED, None, Release()),
        ("none", SERVING, None, Release()),
        ("none", IDLE, None, Acknowledge(at(Phase.DRAINING))),
        ("none", IDLE, at(Phase.DRAINING), Wait()),
        ("none", FAILED, None, Acknowledge(at(Phase.DRAINING))),
        ("none", FAILED, at(Phase.DRAINING), Start()),
    ],
)
def test_draining_is_acknowledged_once_nothing_is_generated(
    release: ReleaseMode, state: EngineState, acknowledged: PhaseRecord | None, expected: Action
) -> None:
    assert plan(at(Phase.DRAINING), state, release=release, acknowledged=acknowledged) == expected


@pytest.mark.parametrize(
    ("release", "state", "expected"),
    [
        ("sleep", SERVING, Release()),
        ("sleep", IDLE, Release()),
        ("sleep", RELEASED, Wait()),
        ("none", SERVING, Release()),
        ("none", IDLE, Wait()),
    ],
)
@pytest.mark.parametrize("phase", [Phase.ROLLOUT, Phase.TRAINING, Phase.LOADING])
def test_an_inference_pod_that_is_about_to_go_hands_back_what_it_has_and_takes_no_version(
    phase: Phase, release: ReleaseMode, state: EngineState, expected: Action
) -> None:
    assert plan(at(phase), state, role=Role.INFERENCE, release=release, newest=commit(), draining=True) == expected


def test_the_phase_of_another_master_is_acknowledged_anew() -> None:
    before = at(Phase.DRAINING).model_copy(update={"token": 8})
    assert plan(at(Phase.DRAINING), RELEASED, acknowledged=before) == Acknowledge(at(Phase.DRAINING))


@pytest.mark.parametrize(
    ("state", "loaded", "acknowledged", "expected"),
    [
        (RELEASED, None, None, Load(commit())),
        (IDLE, LoadedVersion(2, "a"), None, Load(commit())),
        (FAILED, None, None, Load(commit())),
        (SERVING, LoadedVersion(2, "a"), None, Load(commit())),
        (SERVING, LoadedVersion(3, "an earlier start of the trainer"), None, Load(commit())),
        (SERVING, LoadedVersion(3, "a"), None, Acknowledge(at(Phase.LOADING))),
        (SERVING, LoadedVersion(3, "a"), at(Phase.LOADING), Wait()),
        (FAILED, None, at(Phase.LOADING), Load(commit())),
    ],
)
def test_loading_is_acknowledged_once_the_version_is_served(
    state: EngineState, loaded: LoadedVersion | None, acknowledged: PhaseRecord | None, expected: Action
) -> None:
    assert plan(at(Phase.LOADING), state, newest=commit(), loaded=loaded, acknowledged=acknowledged) == expected


@pytest.mark.parametrize("newest", [None, commit(2)])
def test_loading_waits_for_the_commit_of_its_version(newest: Commit | None) -> None:
    assert plan(at(Phase.LOADING), SERVING, newest=newest, loaded=LoadedVersion(2, "a")) == Wait()


@pytest.mark.parametrize(
    ("state", "loaded", "expected"),
    [
        (SERVING, LoadedVersion(3, "a"), Wait()),
        (FAILED, None, Load(commit())),
        (RELEASED, None, Load(commit())),
        (SERVING, LoadedVersion(2, "a"), Load(commit())),
    ],
)
def test_stragglers_and_crashed_engines_join_the_rollout(
    state: EngineState, loaded: LoadedVersion | None, expected: Action
) -> None:
    assert plan(at(Phase.ROLLOUT), state, newest=commit(), loaded=loaded) == expected


@pytest.mark.parametrize("phase", [None, *(at(phase) for phase in Phase if not phase.final)])
@pytest.mark.parametrize(
    ("state", "newest", "loaded", "expected"),
    [
        (RELEASED, None, None, Start()),
        (FAILED, None, None, Start()),
        (IDLE, None, None, Wait()),
        (IDLE, commit(), None, Load(commit())),
        (SERVING, commit(), LoadedVersion(2, "a"), Load(commit())),
        (SERVING, commit(), LoadedVersion(3, "a"), Wait()),
        (FAILED, commit(), None, Load(commit())),
    ],
)
def test_inference_pods_follow_commits_in_whatever_phase(
    phase: PhaseRecord | None,
    state: EngineState,
    newest: Commit | None,
    loaded: LoadedVersion | None,
    expected: Action,
) -> None:
    assert plan(phase, state, role=Role.INFERENCE, newest=newest, loaded=loaded) == expected


@pytest.mark.parametrize("role", [Role.SIDECAR, Role.INFERENCE])
@pytest.mark.parametrize("release", ["sleep", "restart", "none"])
@pytest.mark.parametrize("phase", [at(Phase.DONE), at(Phase.FAILED)])
@pytest.mark.parametrize(("state", "expected"), [(SERVING, Stop()), (FAILED, Stop()), (RELEASED, Wait())])
def test_a_job_that_is_over_has_no_engines(
    role: Role, release: ReleaseMode, phase: PhaseRecord, state: EngineState, expected: Action
) -> None:
    assert plan(phase, state, role=role, release=release, newest=commit()) == expected


@pytest.mark.parametrize("role", [Role.SIDECAR, Role.INFERENCE])
@pytest.mark.parametrize("release", ["sleep", "restart", "none"])
@pytest.mark.parametrize("state", list(EngineState))
@pytest.mark.parametrize("phase", [None, *(at(phase) for phase in Phase)])
def test_it_comes_to_rest_from_every_situation(
    role: Role, release: ReleaseMode, state: EngineState, phase: PhaseRecord | None
) -> None:
    """Carrying out the actions as the engine does ends in Wait, and with the devices free in Training."""
    loaded: LoadedVersion | None = None
    acknowledged: PhaseRecord | None = None
    for _ in range(6):
        action = plan(
            phase, state, role=role, release=release, newest=commit(), loaded=loaded, acknowledged=acknowledged
        )
        match action:
            case Wait():
                break
            case Start():
                state = IDLE
            case Stop():
                state, loaded = RELEASED, None
            case Release():
                state = IDLE if release == "none" and state is SERVING else RELEASED
            case Load(newest):
                state, loaded = SERVING, LoadedVersion(newest.version, newest.incarnation)
            case Acknowledge(record):
                acknowledged = record
    else:
        pytest.fail(f"still {action} after 6 actions, {state}")
    if phase is not None and phase.phase is Phase.TRAINING and release != "none" and role is Role.SIDECAR:
        assert state is RELEASED
    if phase is not None and phase.phase in (Phase.LOADING, Phase.ROLLOUT):
        assert state is SERVING
