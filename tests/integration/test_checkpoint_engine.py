"""The whole checkpoint engine: real etcd, real vLLM, random weights published as a trainer does."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from tandem_core.coordination.records import Control, EngineState, Role
from tandem_core.coordination.store import Store
from tandem_core.environment import CHECKPOINT_ENGINE_PORT
from tandem_core.phases import Phase
from tandem_sidecar.api import Presence, build_api

from tests.integration.sidecar_pod import (
    HEADERS,
    TOKEN,
    SidecarPod,
    Trainer,
    free_address,
    generate,
    make_job,
    measure_difference,
    wait_until_generating,
)

PROMPT = [2, 5, 3, 6]
OUTSIDE = ("0/outside.bin", "0/..%2f..%2f..%2ftoken", "%2e%2e/engine.json", "../../../../token", "0/none.bin")
"""A symbolic link, ways up the tree, and a file that is not there."""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, etcd_endpoint: str) -> Iterator[SidecarPod]:
    """A hybrid pod whose engine ends for each training, with tied embeddings."""
    job = make_job("hybrid.inference.release=restart")
    pod = SidecarPod(tmp_path_factory.mktemp("sidecar"), job, "restarting", free_address(), etcd_endpoint)
    with pod.running():
        yield pod
    print(pod.log())


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory, etcd_endpoint: str) -> Iterator[SidecarPod]:
    """An inference pod, with an output layer of its own."""
    job = make_job("model.scratch.tieEmbeddings=false")
    directory = tmp_path_factory.mktemp("inference")
    pod = SidecarPod(directory, job, "inference", free_address(), etcd_endpoint, Role.INFERENCE)
    with pod.running():
        yield pod
    print(pod.log())


async def test_a_hybrid_engine_serves_three_versions_and_is_gone_in_between(sidecar: SidecarPod, store: Store) -> None:
    trainer = Trainer(store, sidecar)
    await trainer.enter(Phase.WARMUP, 0)
    await trainer.member(lambda member: member.engine.state is EngineState.RELEASED)
    for version in range(3):
        await trainer.enter(Phase.PUBLISHING, version, version)
        model, weights = trainer.make_weights(version)
        await trainer.publish(version, weights)
        await trainer.enter(Phase.LOADING, version, version)
        loaded = await trainer.ack(Phase.LOADING, version)
        assert loaded.error == ""
        assert {"start_seconds", "fetch_seconds", "verify_seconds", "update_seconds", "probe_seconds"} <= set(
            loaded.measurements
        )
        print("loading", {name: round(value, 4) for name, value in loaded.measurements.items()})
        assert (await trainer.serving(version)).engine.restarts == 0
        choice = await generate(sidecar.engine_url, PROMPT, 24)
        assert choice["weight_versions"] == [{"version": str(version), "start": 0, "end": 24}]
        assert measure_difference(model, PROMPT, choice) < 1e-4

        await trainer.enter(Phase.ROLLOUT, version + 1, version)
        belongings = sidecar.observe_belongings()
        await trainer.enter(Phase.DRAINING, version + 1, version)
        drained = await trainer.ack(Phase.DRAINING, version + 1)
        assert drained.measurements["free_device_bytes"] > 0
        assert {activity.name for activity in drained.activities} == {"pause", "release"}
        print("draining", {name: round(value, 4) for name, value in drained.measurements.items()})
        assert belongings.remains() == [str(belongings.processes[0].pid)], "only the launcher stays"
        await trainer.enter(Phase.TRAINING, version + 1, version)


async def test_a_crash_in_service_is_mended_without_being_told(sidecar: SidecarPod, store: Store) -> None:
    trainer = Trainer(store, sidecar)
    await trainer.enter(Phase.ROLLOUT, 3, 2)
    await trainer.serving(2)
    async with httpx.AsyncClient(base_url=sidecar.url, headers=HEADERS) as client:
        status = (await client.get("/v1/status")).json()
    started = time.monotonic()
    os.kill(status["engine_pid"], signal.SIGKILL)
    await trainer.member(lambda member: member.engine.restarts == 1 and member.engine.state is EngineState.SERVING)
    print(f"serving again after {time.monotonic() - started:.2f} s")
    model, _ = trainer.make_weights(2)
    assert measure_difference(model, PROMPT, await generate(sidecar.engine_url, PROMPT, 8)) < 1e-4


async def test_weights_of_another_model_restart_the_engine_and_are_reported(sidecar: SidecarPod, store: Store) -> None:
    trainer = Trainer(store, sidecar)
    before = (await trainer.serving(2)).engine.restarts
    await trainer.enter(Phase.PUBLISHING, 3, 3)
    _, weights = trainer.make_weights(3)
    await trainer.publish(3, {name: tensor for name, tensor in weights.items() if "layers.1" not in name})
    await trainer.enter(Phase.LOADING, 3, 3)
    ack = await trainer.ack(Phase.LOADING, 3)
    assert "model.layers.1.mlp.down_proj.weight" in ack.error
    assert not ack.damaged
    failed = await trainer.member(lambda member: member.engine.state is EngineState.FAILED)
    assert failed.engine.restarts == before + 1
    assert failed.engine.version == -1

    await trainer.enter(Phase.PUBLISHING, 4, 4)
    model, weights = trainer.make_weights(4)
    await trainer.publish(4, weights, damage="model.layers.1.mlp.up_proj.weight")
    await trainer.enter(Phase.LOADING, 4, 4)
    assert (await trainer.ack(Phase.LOADING, 4)).damaged, "to be published again"

    await trainer.enter(Phase.PUBLISHING, 4, 4)
    await store.delete_prefix(trainer.keys.acks(4))
    await trainer.publish(4, weights)
    await trainer.enter(Phase.LOADING, 4, 4)
    assert (await trainer.ack(Phase.LOADING, 4)).error == ""
    assert measure_difference(model, PROMPT, await generate(sidecar.engine_url, PROMPT, 8)) < 1e-4


async def test_a_finished_job_ends_its_engine(sidecar: SidecarPod, store: Store) -> None:
    trainer = Trainer(store, sidecar)
    await trainer.enter(Phase.DONE, 4, 4)
    await trainer.member(lambda member: member.engine.state is EngineState.RELEASED)


async def test_an_inference_pod_takes_each_version_from_two_pods(
    inference: SidecarPod, store: Store, tmp_path: Path
) -> None:
    trainer = Trainer(store, inference)
    await trainer.member(lambda member: member.engine.state is EngineState.IDLE)
    waiting = asyncio.create_task(generate(inference.engine_url, PROMPT, 16))
    with serving_files(tmp_path) as url:
        model, weights = trainer.make_weights(10)
        await trainer.publish(0, weights, others=(url, tmp_path))
        await trainer.serving(0)
        choice = await waiting
        assert choice["weight_versions"] == [{"version": "0", "start": 0, "end": 16}], "it waited for the weights"
        assert measure_difference(model, PROMPT, choice) < 1e-4

        answering = asyncio.create_task(generate(inference.engine_url, PROMPT, 2000))
        await wait_until_generating(inference.engine_url)
        model, weights = trainer.make_weights(11)
        await trainer.publish(1, weights, others=(url, tmp_path))
        cut = await answering
        await trainer.serving(1)
    assert cut["finish_reason"] == "abort"
    assert {span["version"] for span in cut["weight_versions"]} == {"0"}
    assert measure_difference(model, PROMPT, await generate(inference.engine_url, PROMPT, 16)) < 1e-4


async def test_more_prompt_tokens_than_fit_into_a_step_do_not_kill_the_engine(
    inference: SidecarPod, store: Store
) -> None:
    """Carried-over answers are long prompts, which come all at once; vLLM's step on CPUs takes 2048 tokens."""
    trainer = Trainer(store, inference)
    before = (await trainer.serving(1)).engine
    long = [2 + place % 8 for place in range(300)]
    answers = await asyncio.gather(*(generate(inference.engine_url, [*long, place], 2) for place in range(2, 14)))
    assert [len(answer["token_ids"]) for answer in answers] == [2] * 12
    assert (await trainer.serving(1)).engine.restarts == before.restarts


async def test_a_damaged_byte_keeps_the_version_before(inference: SidecarPod, store: Store) -> None:
    trainer = Trainer(store, inference)
    model, _ = trainer.make_weights(11)
    _, weights = trainer.make_weights(17)
    await trainer.publish(2, weights, damage="model.layers.1.mlp.up_proj.weight")
    async with httpx.AsyncClient(base_url=inference.url, headers=HEADERS, timeout=30) as client:
        answer = await client.post("/v1/weights/2/load")
        assert answer.status_code == 409
        assert "model.layers.1.mlp.up_proj.weight" in answer.json()["detail"]
        status = (await client.get("/v1/status")).json()
        metrics = (await client.get("/metrics")).text.splitlines()
    assert (status["engine"]["state"], status["engine"]["version"]) == ("serving", 1)
    assert {'tandem_engine_state{state="serving"} 1.0', "tandem_engine_version 1.0"} <= set(metrics)
    assert "tandem_engine_version_lag 1.0" in metrics
    assert any(line.startswith("tandem_weight_received_bytes_total") and not line.endswith(" 0.0") for line in metrics)
    assert measure_difference(model, PROMPT, await generate(inference.engine_url, PROMPT, 8)) < 1e-4
    model, weights = trainer.make_weights(18)
    await trainer.publish(3, weights)
    await trainer.serving(3)
    assert measure_difference(model, PROMPT, await generate(inference.engine_url, PROMPT, 8)) < 1e-4


async def test_a_pod_that_is_about_to_go_hands_back_what_it_works_on_and_may_stay_after_all(
    inference: SidecarPod, store: Store
) -> None:
    trainer = Trainer(store, inference)
    answering = asyncio.create_task(generate(inference.engine_url, PROMPT, 2000))
    await wait_until_generating(inference.engine_url)
    await store.put(trainer.keys.control, Control(draining=("another", inference.environment.pod_name)))
    cut = await answering
    assert cut["finish_reason"] == "abort"
    assert cut["token_ids"]
    await trainer.member(lambda member: member.engine.state is not EngineState.SERVING)
    await store.put(trainer.keys.control, Control())
    await trainer.serving(3)


async def test_weight_files_are_served_by_range_and_nothing_else_is(inference: SidecarPod) -> None:
    content = (inference.environment.shm_dir / "weights/0/rank-0.bin").read_bytes()
    outside = inference.environment.shm_dir / "weights/0/outside.bin"
    outside.symlink_to(inference.environment.token_file)
    async with httpx.AsyncClient(base_url=inference.url, headers=HEADERS) as client:
        part = await client.get("/v1/weights/files/0/rank-0.bin", headers={"Range": "bytes=100-299"})
        whole = await client.get("/v1/weights/files/0/rank-0.bin")
        refused = [(await client.get(f"/v1/weights/files/{path}")).status_code for path in OUTSIDE]
        assert (await httpx.AsyncClient().get(f"{inference.url}/v1/weights/files/0/rank-0.bin")).status_code == 401
    assert (part.status_code, part.content) == (206, content[100:300])
    assert (whole.status_code, whole.content) == (200, content)
    assert all(status in (404, 422) for status in refused), refused


@contextmanager
def serving_files(shm_dir: Path) -> Iterator[str]:
    """The files of another pod, behind its checkpoint engine's API; yields its url."""
    address = free_address()
    app = build_api(Presence("another-pod", Role.SIDECAR, TOKEN, shm_dir))
    server = uvicorn.Server(uvicorn.Config(app, host=address, port=CHECKPOINT_ENGINE_PORT, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://{address}:{CHECKPOINT_ENGINE_PORT}"
    finally:
        server.should_exit = True
        thread.join(30)
