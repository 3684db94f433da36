"""An etcd that is Tandem's only: the operator turns its authentication on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tandem_core.coordination.records import Control
from tandem_core.coordination.store import EtcdRefused, Store
from tandem_core.errors import TandemError
from tandem_operator.etcd_access import enable_authentication

from .secure_etcd import SecureEtcd


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[SecureEtcd]:
    """With certificates, and without users."""
    server = SecureEtcd(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


async def test_it_is_turned_on_once_and_lets_only_the_operator_in(etcd: SecureEtcd) -> None:
    async with Store(etcd.access()) as operator, Store(etcd.access("", "")) as stranger:
        await operator.put("/tandem/x", Control())
        assert operator.token == ""  # who was in before is asked for the password afterwards
        assert await enable_authentication(etcd.access())
        assert not await enable_authentication(etcd.access())
        assert await operator.get("/tandem/x", Control)
        assert operator.token
        with pytest.raises(EtcdRefused, match="asks for a user"):
            await stranger.get("/tandem/x", Control)
    with pytest.raises(EtcdRefused, match="does not know user 'root' with this password"):
        await enable_authentication(etcd.access("root", "of somebody else"))


async def test_a_try_that_broke_off_is_gone_on_with(etcd: SecureEtcd) -> None:
    async with Store(etcd.access("", "")) as store:
        await store.wait_until_reachable(30)
        assert store.client.auth is not None
        await store.client.auth.user_add("root", "the password of that try")
    assert await enable_authentication(etcd.access())
    async with Store(etcd.access()) as operator:
        await operator.put("/tandem/x", Control())
        assert operator.token


async def test_another_user_than_root_is_refused(etcd: SecureEtcd) -> None:
    with pytest.raises(TandemError, match=r"user named root, and the operator's is 'somebody'.*etcd_dir"):
        await enable_authentication(etcd.access("somebody", "password"))
