"""One etcd for many jobs: each reaches its own keys and no others, over TLS, and goes on when tokens become void."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio
from etcd3aio import EtcdPermissionDeniedError, EtcdUnauthenticatedError, prefix_range_end
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.barrier import wait_for_acks
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership
from tandem_core.coordination.lease import grant_lease
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, Control, Member, PhaseRecord, Role
from tandem_core.coordination.store import EtcdRefused, EtcdUnreachable, Store
from tandem_core.errors import TandemError
from tandem_core.phases import Phase
from tandem_core.weights.manifest import ManifestPart
from tandem_operator.etcd_access import apply_job_access, delete_job, derive_password

from .phase_members import build_part
from .secure_etcd import SecureEtcd
from .test_rendezvous import Agents

PASSWORD = "of-the-job"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureEtcd]:
    server = SecureEtcd(tmp_path_factory.mktemp("secure") / "etcd")
    server.open()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def operator(etcd: SecureEtcd) -> AsyncIterator[Store]:
    async with Store(etcd.access()) as store:
        yield store


@pytest.fixture
def other_keys(keys: JobKeys) -> JobKeys:
    """Of another job, whose name even begins with this one's."""
    return JobKeys(keys.job_uid + "-2")


@pytest_asyncio.fixture
async def job(etcd: SecureEtcd, operator: Store, keys: JobKeys, other_keys: JobKeys) -> AsyncIterator[Store]:
    """The job's own way in; there is another job, too."""
    await apply_job_access(operator, keys, PASSWORD)
    await apply_job_access(operator, other_keys, PASSWORD)
    await operator.put(other_keys.control, Control(reason="not yours"))
    async with Store(etcd.access(keys.job_uid, PASSWORD), patience_seconds=20) as store:
        yield store


def phase_record(iteration: int, token: int = 0) -> PhaseRecord:
    return PhaseRecord(iteration=iteration, phase=Phase.TRAINING, version=0, token=token, started_at=0.0)


async def read_for_ever(store: Store, keys: JobKeys) -> None:
    """With the token that the store has."""
    while True:
        await store.kv.get(keys.phase)
        await asyncio.sleep(0.1)


async def test_a_job_cannot_reach_another_jobs_keys_nor_any_outside(
    job: Store, other_keys: JobKeys, operator: Store
) -> None:
    for key in (other_keys.control, "/tandem/", "/tandem/x", "outside"):
        with pytest.raises(EtcdRefused, match="only the keys of its own job"):
            await job.get(key, Control)
        with pytest.raises(EtcdRefused):
            await job.put(key, Control(stop=True))
        with pytest.raises(EtcdRefused):
            await job.delete(key)
        with pytest.raises(EtcdRefused):
            await job.list_prefix(key, Control)
        with pytest.raises(EtcdRefused):
            await Mirror(job, key, Control).__aenter__()
    assert await operator.get(other_keys.control, Control) == Control(reason="not yours")


async def test_a_job_cannot_watch_another_jobs_keys(job: Store, other_keys: JobKeys) -> None:
    await job.wait_until_reachable(10)  # with a token
    assert job.client.watch is not None
    async with asyncio.timeout(10):
        async for response in job.client.watch.watch(other_keys.prefix, range_end=prefix_range_end(other_keys.prefix)):
            assert response.canceled
            assert "permission denied" in response.cancel_reason
            break


async def test_a_job_cannot_end_another_jobs_leases_nor_manage_users(
    etcd: SecureEtcd, job: Store, other_keys: JobKeys
) -> None:
    async with Store(etcd.access(other_keys.job_uid, PASSWORD)) as other:
        lease = await grant_lease(other, 60)
        await other.put(other_keys.leader, Control(), lease=lease)
        await job.wait_until_reachable(10)
        assert job.client.lease is not None
        assert job.client.auth is not None
        with pytest.raises(EtcdPermissionDeniedError):
            await job.client.lease.revoke(lease)
        with pytest.raises(EtcdPermissionDeniedError):
            await job.client.auth.user_list()
        with pytest.raises(EtcdPermissionDeniedError):
            await job.client.auth.user_grant_role(job.access.username, "root")
        assert await other.get(other_keys.leader, Control) is not None


async def test_a_whole_round_of_coordination_works_under_the_jobs_role(job: Store, keys: JobKeys) -> None:
    await job.wait_until_reachable(10)
    async with (
        Leadership(job, keys, "master", ttl_seconds=1) as leader,
        Membership(job, keys, new_member(Role.TRAINER, "0", "pod"), ttl_seconds=1) as membership,
        Mirror(job, keys.phase, PhaseRecord) as phase,
        Mirror(job, keys.members, Member) as members,
        Mirror(job, keys.all_acks, Ack) as acks,
    ):
        await leader.put(keys.phase, phase_record(1, leader.token))
        await phase.wait_for(lambda values: bool(values), 10)
        await job.put(keys.manifest_part(1, 0), build_part(1, 0, 1))
        assert set(await job.list_prefix(keys.manifest_parts(1), ManifestPart)) == {"00000"}
        ack = Ack(member="trainer-0", iteration=1, phase=Phase.TRAINING)
        await job.put(keys.ack(1, Phase.TRAINING, "trainer-0"), ack)
        await wait_for_acks(acks, ["trainer-0"], 10, below=f"{1:08d}/{Phase.TRAINING}/")
        await leader.write({keys.phase: phase_record(2, leader.token)}, delete_prefixes=[keys.acks(1)])
        await acks.wait_for(lambda values: not values, 10)
        assert job.client.lease is not None
        await job.client.lease.revoke(membership._lease)  # an expired lease is replaced under the role, too
        await members.wait_for(lambda values: not values, 10)
        await members.wait_for(lambda values: "trainer/0" in values, 10)


def test_torchruns_agents_meet_under_the_jobs_role(
    etcd: SecureEtcd, keys: JobKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare() -> None:
        async with Store(etcd.access()) as operator:
            await apply_job_access(operator, keys, PASSWORD)

    asyncio.run(prepare())
    secret = tmp_path / "secret"
    secret.mkdir()
    for name, content in etcd.access(keys.job_uid, PASSWORD).files().items():
        (secret / name).write_text(content)
    monkeypatch.setenv("TANDEM_ETCD_DIR", str(secret))
    agents = Agents(tmp_path, etcd.endpoint, keys.job_uid)
    try:
        (agents.directory / "finish").touch()
        agents.start(0)
        agents.start(1)
        for agent in list(agents.running.values()):
            assert agent.wait(90) == 0, agents.logs()
    finally:
        for pod in list(agents.running):
            agents.kill(pod)
    assert PASSWORD not in agents.logs()


async def test_a_wrong_password_is_named_with_what_to_do(etcd: SecureEtcd, job: Store, keys: JobKeys) -> None:
    async with Store(etcd.access(keys.job_uid, "another")) as store:
        with pytest.raises(
            EtcdRefused, match=rf"does not know user '{keys.job_uid}' with this password: compare the Se"
        ):
            await store.wait_until_reachable(30)
    async with Store(etcd.access("", "")) as store:
        with pytest.raises(EtcdRefused, match=r"asks for a user and a password.*TANDEM_ETCD_DIR"):
            await store.wait_until_reachable(30)
    assert PASSWORD not in repr(job.access)


@pytest.mark.parametrize(
    "left_out", [{"certificate": "", "key": ""}, {"certificate": "", "key": "", "ca_certificate": ""}]
)
async def test_who_shows_no_certificate_is_told_to_look_at_tls(etcd: SecureEtcd, left_out: dict[str, str]) -> None:
    async with Store(etcd.access().model_copy(update=left_out)) as store:
        with pytest.raises(EtcdUnreachable, match="both use TLS or neither"):
            await store.wait_until_reachable(1)


async def test_an_endpoint_may_be_a_name(etcd: SecureEtcd) -> None:
    """Of a Service on a cluster; its certificate is checked against the name."""
    port = etcd.endpoint.rpartition(":")[2]
    by_name = etcd.access().model_copy(update={"endpoints": f"localhost.:{port}"})
    assert by_name.target == f"dns:///localhost.:{port}"
    async with Store(etcd.access().model_copy(update={"endpoints": f"{etcd.endpoint},{etcd.endpoint}"})) as store:
        await store.wait_until_reachable(30)
    with pytest.raises(TandemError, match="name one Service"):
        EtcdAccess.load("etcd-0:2379,etcd-1:2379", None)


async def test_access_is_applied_again_without_a_change_and_mended_if_it_is_not_right(
    etcd: SecureEtcd, operator: Store, job: Store, keys: JobKeys
) -> None:
    auth = operator.client.auth
    assert auth is not None
    await job.put(keys.control, Control())
    before = (await auth.auth_status()).authRevision
    await apply_job_access(operator, keys, PASSWORD)
    assert (await auth.auth_status()).authRevision == before
    await auth.role_revoke_permission(keys.job_uid, keys.prefix, prefix_range_end(keys.prefix))
    await apply_job_access(operator, keys, "a new one")
    async with Store(etcd.access(keys.job_uid, "a new one")) as store:
        await store.put(keys.control, Control(reason="mended"))
    with pytest.raises(EtcdRefused):
        await job.get(keys.control, Control)


def test_each_job_has_a_password_of_its_own_that_needs_not_be_kept(etcd: SecureEtcd) -> None:
    first, again, second = (derive_password(etcd.access(), JobKeys(uid)) for uid in ("a", "a", "b"))
    assert first == again != second
    assert etcd.access().password not in first


async def test_a_job_that_is_deleted_leaves_nothing_and_is_locked_out(
    operator: Store, job: Store, keys: JobKeys, other_keys: JobKeys
) -> None:
    await job.put(keys.control, Control())
    await delete_job(operator, keys)
    await delete_job(operator, keys)
    with pytest.raises(EtcdRefused, match="does not know user"):
        await job.put(keys.control, Control())
    auth = operator.client.auth
    assert auth is not None
    assert await operator.list_prefix(keys.prefix, Control) == {}
    assert keys.job_uid not in (await auth.user_list()).users
    assert keys.job_uid not in (await auth.role_list()).roles
    assert await operator.get(other_keys.control, Control) == Control(reason="not yours")


async def test_an_etcd_without_authentication_takes_both_as_well(store: Store, keys: JobKeys) -> None:
    await apply_job_access(store, keys, PASSWORD)
    await apply_job_access(store, keys, PASSWORD)
    access = EtcdAccess(endpoints=store.access.endpoints, username=keys.job_uid, password=PASSWORD)
    async with Store(access) as job:
        await job.put(keys.control, Control())
    await delete_job(store, keys)
    await delete_job(store, keys)
    assert await store.get(keys.control, Control) is None


async def test_void_tokens_are_replaced(tmp_path: Path, keys: JobKeys) -> None:
    """Those that expire, that are older than a change of users, and that a new start of etcd has forgotten."""
    server = SecureEtcd(tmp_path / "etcd", token_seconds=2)
    await asyncio.to_thread(server.open)
    try:
        async with Store(server.access()) as operator, Store(server.access(keys.job_uid, PASSWORD)) as job:
            await apply_job_access(operator, keys, PASSWORD)
            await job.put(keys.phase, phase_record(1))
            with pytest.raises(EtcdUnauthenticatedError):
                await asyncio.wait_for(read_for_ever(job, keys), 30)  # until etcd refuses the token
            await job.put(keys.phase, phase_record(2))
            async with (
                Mirror(job, keys.phase, PhaseRecord) as phase,
                Membership(job, keys, new_member(Role.TRAINER, "0", "pod"), ttl_seconds=2) as membership,
                Mirror(operator, keys.members, Member) as members,
            ):
                lease = membership._lease
                await apply_job_access(operator, JobKeys("another"), PASSWORD)
                with pytest.raises((EtcdUnauthenticatedError, grpc.aio.AioRpcError)):
                    await job.kv.get(keys.phase)  # the token is older than the new user
                await job.put(keys.phase, phase_record(3))
                await phase.wait_for(lambda values: values[""].iteration == 3, 10)
                server.kill()
                write = asyncio.create_task(job.put(keys.phase, phase_record(4)))
                server.start()
                await asyncio.wait_for(write, 30)
                await phase.wait_for(lambda values: values[""].iteration == 4, 30)
                await members.wait_for(lambda values: "trainer/0" in values, 30)
                assert lease
    finally:
        server.kill()
