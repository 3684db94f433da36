"""An etcd that asks for certificates and passwords, and that goes away while a job is deleted."""

import asyncio
import base64
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tandem_core.coordination.access import FILES, EtcdAccess
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.records import Control
from tandem_core.coordination.store import EtcdRefused, EtcdUnreachable, Store
from tandem_operator.resources import SECRET

from tests.integration.secure_etcd import SecureEtcd

from .job_specs import SMALL
from .operator_process import OperatorProgram
from .rljob_api import Api
from .watched_job import WatchedJob, wait_until


@pytest.fixture
def secure_etcd(tmp_path: Path) -> Iterator[SecureEtcd]:
    server = SecureEtcd(tmp_path / "etcd")
    server.open()
    yield server
    server.kill()


@pytest.fixture
def job(
    crd: Path, namespace: str, secure_etcd: SecureEtcd, operator_program: OperatorProgram, tmp_path: Path
) -> Iterator[WatchedJob]:
    """A job under an operator that shows this etcd what it asks for."""
    shown = tmp_path / "shown"
    shown.mkdir()
    for name, field in FILES.items():
        (shown / name).write_text(getattr(secure_etcd.access(), field))
    program = OperatorProgram(operator_program.kubeconfig, secure_etcd.endpoint)
    flags = [f"--namespaces={namespace}", f"--lease-name={namespace}", f"--etcd-dir={shown}"]
    flags.append("--etcd-enable-authentication")
    with program.run(tmp_path / "operator.log", *flags), Api(crd, namespace) as api:
        yield WatchedJob(api, namespace, "guarded", secure_etcd.endpoint).create(SMALL)


def access_of_pods(job: WatchedJob, etcd: SecureEtcd) -> EtcdAccess:
    """What the job's pods show to etcd, by the Secret that they mount."""
    secret = job.get(SECRET, "guarded-etcd")
    assert secret is not None
    values = {FILES[name]: base64.b64decode(value).decode() for name, value in secret["data"].items() if name in FILES}
    return EtcdAccess(endpoints=etcd.endpoint, **values)


async def read_control(access: EtcdAccess, uid: str) -> Control | None:
    async with Store(access) as store:
        return await store.get(JobKeys(uid).control, Control)


def test_pods_reach_their_own_keys_with_what_the_operator_gives_them(job: WatchedJob, secure_etcd: SecureEtcd) -> None:
    job.wait_for_pods()
    access = access_of_pods(job, secure_etcd)
    uid = (job.get() or {})["metadata"]["uid"]
    assert access.username == uid
    assert asyncio.run(read_control(access, uid)) is not None
    with pytest.raises(EtcdRefused):
        asyncio.run(read_control(access, "another-job"))


def test_a_job_that_is_deleted_while_etcd_is_away_goes_when_it_is_back_and_leaves_nothing(
    job: WatchedJob, secure_etcd: SecureEtcd
) -> None:
    job.wait_for_pods()
    access, uid = access_of_pods(job, secure_etcd), (job.get() or {})["metadata"]["uid"]
    job.edit({"metadata": {"annotations": {"tandem.dev/grace-period-seconds": "0"}}})
    secure_etcd.kill()
    job.delete()
    wait_until(lambda: not job.let_pods_go() and not job.jobs(), "its pods go without etcd")
    time.sleep(2)
    assert job.get() is not None, "its keys are still in etcd"
    secure_etcd.start()
    wait_until(lambda: job.get() is None, "the job is gone")
    with pytest.raises(EtcdRefused):
        asyncio.run(read_control(access, uid))
    root = secure_etcd.access()
    assert asyncio.run(read_control(root, uid)) is None


def test_an_etcd_that_has_lost_everything_is_closed_again_and_knows_the_jobs_again(
    job: WatchedJob, secure_etcd: SecureEtcd
) -> None:
    job.wait_for_pods()
    access, uid = access_of_pods(job, secure_etcd), (job.get() or {})["metadata"]["uid"]
    secure_etcd.kill()
    secure_etcd.lose_data()
    secure_etcd.start()

    def reaches_its_keys() -> bool:
        with contextlib.suppress(EtcdRefused, EtcdUnreachable):
            return asyncio.run(read_control(access, uid)) is not None
        return False

    wait_until(reaches_its_keys, "the job's user reaches the job's keys", 60)
    with pytest.raises(EtcdRefused):
        asyncio.run(read_control(secure_etcd.access(username="", password=""), uid))
