"""With which arguments and environment vLLM is started."""

from pathlib import Path

import pytest
from tandem_core.coordination.records import Role
from tandem_core.environment import PodEnvironment
from tandem_core.job import RLJob, parse_job
from tandem_sidecar.engine_arguments import EngineCommand, build_engine_command

MODEL = Path("/models/policy")
JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: sums}
spec:
  iterations: 1
  seed: 7
  model: {path: /models/policy}
  data: {reasoningGym: {task: chain_sum}}
  rewards: {scorers: [{type: exact}]}
"""
CPU = ("hybrid.device=cpu", "hybrid.inference.release=restart", "hybrid.inference.kvCacheBytes=67108864")


def make_job(*overrides: str) -> RLJob:
    return parse_job(JOB, overrides=[f"spec.{override}" for override in overrides])


def make_pod(**changes: str) -> PodEnvironment:
    values = {
        "job_file": "/job.yaml",
        "job_uid": "uid",
        "pod_name": "sums-hybrid-0",
        "pod_ip": "10.0.0.7",
        "etcd_endpoints": "etcd:2379",
        "token_file": "/token",
        "shm_dir": "/dev/shm/tandem",
        "model_dir": "/model",
        "checkpoint_dir": "/checkpoints",
        "data_dir": "/data",
    }
    return PodEnvironment.model_validate(values | changes)


def make_command(*overrides: str, role: Role = Role.SIDECAR) -> EngineCommand:
    return build_engine_command(make_job(*overrides), make_pod(), MODEL, role)


def value_of(command: EngineCommand, flag: str) -> str:
    """The argument after the only occurrence of a flag."""
    assert command.arguments.count(flag) == 1, command.arguments
    return command.arguments[command.arguments.index(flag) + 1]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--host", "10.0.0.7"),
        ("--port", "8100"),
        ("--model", "/models/policy"),
        ("--served-model-name", "sums"),
        ("--load-format", "dummy"),
        ("--generation-config", "vllm"),
        ("--seed", "7"),
        ("--dtype", "bfloat16"),
        ("--max-num-seqs", "256"),
        ("--weight-transfer-config", '{"backend":"tandem"}'),
        ("--worker-extension-cls", "tandem_sidecar.vllm_extension.TandemWorkerExtension"),
        ("--gpu-memory-utilization", "0.85"),
    ],
)
def test_every_engine_is_told(flag: str, value: str) -> None:
    assert value_of(make_command(), flag) == value


@pytest.mark.parametrize("overrides", [(), CPU])
def test_tokens_in_and_out_and_weights_only_with_the_token(overrides: tuple[str, ...]) -> None:
    command = make_command(*overrides)
    assert "--enable-scale-out" in command.arguments
    assert command.arguments.index("tandem_sidecar.engine_gate.EngineGate") < command.arguments.index(
        "tandem_sidecar.engine_auth.EngineAuthentication"
    ), "what is given last is outermost: the token is checked before anything else"
    assert command.environment["TANDEM_TOKEN_FILE"] == "/token"
    assert command.environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert command.url == "http://10.0.0.7:8100"


def test_it_is_encrypted_where_the_pod_has_a_certificate() -> None:
    command = build_engine_command(make_job(), make_pod(tls_dir="/etc/tandem/tls"), MODEL, Role.SIDECAR)
    assert value_of(command, "--ssl-certfile") == "/etc/tandem/tls/tls.crt"
    assert value_of(command, "--ssl-keyfile") == "/etc/tandem/tls/tls.key"
    assert command.url == "https://10.0.0.7:8100"


@pytest.mark.parametrize(
    ("trainer", "inference", "dtype"),
    [
        ("bf16", "auto", "bfloat16"),
        ("fp32", "auto", "float32"),
        ("fp32", "bf16", "bfloat16"),
        ("bf16", "fp32", "float32"),
    ],
)
def test_the_engine_computes_as_the_trainer_does_unless_told(trainer: str, inference: str, dtype: str) -> None:
    command = make_command(f"hybrid.trainer.precision={trainer}", f"hybrid.inference.precision={inference}")
    assert value_of(command, "--dtype") == dtype


@pytest.mark.parametrize(
    ("overrides", "role", "asleep"),
    [
        ((), Role.SIDECAR, True),
        ((), Role.INFERENCE, False),
        (("hybrid.inference.release=restart",), Role.SIDECAR, False),
        (("hybrid.inference.release=none",), Role.SIDECAR, False),
        (CPU, Role.SIDECAR, False),
    ],
)
def test_sleep_mode_is_only_for_engines_that_sleep(overrides: tuple[str, ...], role: Role, asleep: bool) -> None:
    assert ("--enable-sleep-mode" in make_command(*overrides, role=role).arguments) == asleep


def test_on_cpu_nothing_is_compiled_and_one_worker_shares_the_engines_process() -> None:
    command = make_command(*CPU)
    assert "--enforce-eager" in command.arguments
    assert "--gpu-memory-utilization" not in command.arguments
    assert value_of(command, "--kv-cache-memory-bytes") == "67108864"
    expected = {
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    assert expected.items() <= command.environment.items()
    assert command.preload == MODEL


def test_several_workers_on_cpu_are_processes_of_their_own() -> None:
    command = make_command(*CPU, "hybrid.inference.tensorParallel=2", "hybrid.trainer.threads=4")
    assert value_of(command, "--tensor-parallel-size") == "2"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in command.environment
    assert command.environment["OMP_NUM_THREADS"] == "4"
    assert command.preload is None


def test_engines_on_gpus_are_fresh_processes_and_may_compile() -> None:
    command = make_command()
    assert command.preload is None
    assert "--enforce-eager" not in command.arguments
    assert not {"TORCH_COMPILE_DISABLE", "OMP_NUM_THREADS"} & command.environment.keys()


@pytest.mark.parametrize(("tensor_parallel", "engines"), [(1, "8"), (2, "4"), (8, None)])
def test_all_gpus_of_the_pod_are_used(tensor_parallel: int, engines: str | None) -> None:
    command = make_command("hybrid.ranksPerReplica=8", f"hybrid.inference.tensorParallel={tensor_parallel}")
    if engines is None:
        assert "--data-parallel-size" not in command.arguments
    else:
        assert value_of(command, "--data-parallel-size") == engines


def test_the_jobs_own_arguments_come_last() -> None:
    command = make_command("hybrid.inference.maxLength=4096", "hybrid.inference.extraArguments=[--swap-space, '0']")
    assert value_of(command, "--max-model-len") == "4096"
    assert command.arguments[-2:] == ("--swap-space", "0")


def test_pods_on_one_machine_have_scratch_directories_of_their_own_with_short_names() -> None:
    job = make_job()
    names = {
        build_engine_command(job, make_pod(**changes), MODEL, Role.SIDECAR).scratch_directory
        for changes in ({}, {"pod_name": "sums-hybrid-1"}, {"job_uid": "another"})
    }
    assert len(names) == 3
    # vLLM puts sockets named by a uuid there; the path of a Unix socket may have 107 characters.
    assert all(len(f"{name}/{'x' * 36}") < 108 for name in names)
