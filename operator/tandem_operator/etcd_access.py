"""Each job's own user and role in etcd, bound to the job's prefix."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from etcd3aio import prefix_range_end
from etcd3aio.auth import AuthService, PermissionType
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.store import CALL_TIMEOUT_SECONDS, PATIENCE_SECONDS, EtcdRefused, Store
from tandem_core.errors import TandemError

ROOT = "root"
"""User and role that etcd asks for before it turns authentication on."""
_EXISTS = ("user name already exists", "role name already exists")
_MISSING = ("user name not found", "role name not found", "role is not granted")


def derive_password(operator: EtcdAccess, keys: JobKeys) -> str:
    """The password of the job's user, from the operator's own.

    Nothing has to be kept, and a Secret that somebody deletes comes back as it was: another password would lock out the
    job's processes until they start anew.
    """
    return hmac.new(operator.password.encode(), f"job {keys.job_uid}".encode(), "sha256").hexdigest()


async def enable_authentication(operator: EtcdAccess) -> bool:
    """Turn authentication on, with `operator` as its root user; whether it was off.

    Waits for an etcd that is away. May be done again, and where an earlier try broke off. Raises TandemError if
    `operator` is not root, EtcdUnreachable, EtcdRefused if it is on with another password.
    """
    if operator.username != ROOT:
        raise TandemError(
            f"etcd's authentication is turned on by a user named {ROOT}, and the operator's is {operator.username!r}: "
            "write username and password into the directory etcd_dir, or leave etcd_enable_authentication out"
        )
    async with Store(operator) as store:
        await store.wait_until_reachable(PATIENCE_SECONDS)
        if store.token:
            return False
        auth = _auth(store)
        await _change(store, lambda: auth.user_add(ROOT, operator.password, timeout=CALL_TIMEOUT_SECONDS), _EXISTS)
        await store.call(lambda: auth.user_change_password(ROOT, operator.password, timeout=CALL_TIMEOUT_SECONDS))
        await _change(store, lambda: auth.role_add(ROOT, timeout=CALL_TIMEOUT_SECONDS), _EXISTS)
        await store.call(lambda: auth.user_grant_role(ROOT, ROOT, timeout=CALL_TIMEOUT_SECONDS))
        await store.call(lambda: auth.auth_enable(timeout=CALL_TIMEOUT_SECONDS))
        return True


async def apply_job_access(store: Store, keys: JobKeys, password: str) -> None:
    """Let the user named by the job's uid, with this password, reach the job's keys and nothing else.

    `store` is the operator's, whose user has the role root. What is right already is left alone, so that etcd's users
    do not change with each reconcile; the password costs etcd some 50 ms, because it can only be tried. A new password
    locks out who is in. Works where authentication is off, too: it holds from when it is turned on. Raises EtcdRefused,
    EtcdUnreachable.
    """
    name, auth = keys.job_uid, _auth(store)
    permission = await _observe_permission(store, name)
    start, end = keys.prefix.encode(), prefix_range_end(keys.prefix)
    if permission != (PermissionType.READWRITE, start, end):
        await _change(store, lambda: auth.role_add(name, timeout=CALL_TIMEOUT_SECONDS), _EXISTS)
        await store.call(
            lambda: auth.role_grant_permission(
                name, start, end, perm_type=PermissionType.READWRITE, timeout=CALL_TIMEOUT_SECONDS
            )
        )
    roles = await _observe_roles(store, name)
    if roles is None:
        await _change(store, lambda: auth.user_add(name, password, timeout=CALL_TIMEOUT_SECONDS), _EXISTS)
    elif not await _is_password(store, name, password):
        await store.call(lambda: auth.user_change_password(name, password, timeout=CALL_TIMEOUT_SECONDS))
    if roles != [name]:
        await store.call(lambda: auth.user_grant_role(name, name, timeout=CALL_TIMEOUT_SECONDS))


async def delete_job(store: Store, keys: JobKeys) -> None:
    """Remove the job's user, so that none of its pods writes any more, then its keys and its role; again: nothing."""
    name, auth = keys.job_uid, _auth(store)
    await _change(store, lambda: auth.user_delete(name, timeout=CALL_TIMEOUT_SECONDS), _MISSING)
    await store.delete_prefix(keys.prefix)
    await _change(store, lambda: auth.role_delete(name, timeout=CALL_TIMEOUT_SECONDS), _MISSING)


async def _observe_permission(store: Store, role: str) -> tuple[PermissionType, bytes, bytes] | None:
    """The role's only permission; None: it has none, or several, or is not there."""
    found = await _change(store, lambda: _auth(store).role_get(role, timeout=CALL_TIMEOUT_SECONDS), _MISSING)
    if found is None or len(found.perm) != 1:
        return None
    return PermissionType(found.perm[0].permType), found.perm[0].key, found.perm[0].range_end


async def _observe_roles(store: Store, user: str) -> list[str] | None:
    """None: there is no such user."""
    found = await _change(store, lambda: _auth(store).user_get(user, timeout=CALL_TIMEOUT_SECONDS), _MISSING)
    return None if found is None else list(found.roles)


async def _is_password(store: Store, user: str, password: str) -> bool:
    """Whether etcd takes it; False where it does not say, because authentication is off."""
    access = store.access.model_copy(update={"username": user, "password": password})
    async with Store(access) as own:
        try:
            await own.wait_until_reachable(CALL_TIMEOUT_SECONDS)
        except EtcdRefused:
            return False
        return bool(own.token)


async def _change(store: Store, call: Callable[[], Awaitable[Any]], done: tuple[str, ...]) -> Any:
    """The answer of etcd; None if it says that things are as they should be (one of `done`)."""
    try:
        return await store.call(call)
    except grpc.aio.AioRpcError as error:
        if any(text in (error.details() or "") for text in done):
            return None
        raise


def _auth(store: Store) -> AuthService:
    if store.client.auth is None:
        raise RuntimeError("Store is used outside its `async with` block")
    return store.client.auth
