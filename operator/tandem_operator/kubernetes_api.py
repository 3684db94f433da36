"""The few requests that the operator makes of Kubernetes, as plain objects; watches are kopf's."""

import json
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from tandem_core.errors import TandemError

from tandem_operator.build import KubernetesObject
from tandem_operator.metrics import API_REQUESTS
from tandem_operator.resources import FIELD_MANAGER, Kind

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=15.0)
CONNECTIONS = 64
"""Requests at a time: as many as reconciles."""


class ApiProblem(TandemError):
    """The API server refused a request, or did not answer (status 0)."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0: no answer."""
        self.reason = reason
        """The API server's word for it, such as Invalid or AlreadyExists."""


def runs_in_pod() -> bool:
    """Whether the ServiceAccount of this process's pod is to be used."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


async def load_configuration() -> Configuration:
    """How to reach the API server: in a pod by its ServiceAccount, else by KUBECONFIG.

    Raises TandemError with what to set where there is neither.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS
    configuration.client_session_kwargs = {"trust_env": False}  # else aiohttp reads ~/.netrc for each request
    try:
        if runs_in_pod():
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise TandemError(
            f"no access to Kubernetes: {error}. A pod needs a ServiceAccount, others the file in KUBECONFIG"
        ) from error
    return configuration


class KubernetesApi:
    """Requests over one pool of connections; an async context manager."""

    def __init__(self, configuration: Configuration, *, may_write: Callable[[], None] = lambda: None) -> None:
        """`may_write` is called before each change and raises if this process must not make it (any more)."""
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._may_write = may_write

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def apply(
        self, kind: Kind, item: KubernetesObject, *, force: bool = True, subresource: str = ""
    ) -> tuple[KubernetesObject, bool]:
        """Apply server-side; the object as it is now, and whether it is new. Raises ApiProblem.

        Without `force` a field that somebody else has set to something else is a Conflict.
        """
        metadata = item["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        status, body = await self._request("PATCH", kind, path, query, item, "application/apply-patch+yaml")
        return body, status == 201

    async def merge(self, kind: Kind, namespace: str, name: str, patch: KubernetesObject) -> KubernetesObject:
        """Change fields; the object as it is now. With metadata.resourceVersion only if it is still that one."""
        query = {"fieldManager": FIELD_MANAGER}
        path = kind.path(namespace, name)
        return (await self._request("PATCH", kind, path, query, patch, "application/merge-patch+json"))[1]

    async def create(self, kind: Kind, item: KubernetesObject) -> KubernetesObject:
        """Make the object; raises ApiProblem, also if it exists."""
        path = kind.path(item["metadata"]["namespace"])
        return (await self._request("POST", kind, path, {"fieldManager": FIELD_MANAGER}, item))[1]

    async def replace(self, kind: Kind, item: KubernetesObject) -> KubernetesObject:
        """Write the object as a whole, if nobody else has since it was read."""
        metadata = item["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return (await self._request("PUT", kind, path, {"fieldManager": FIELD_MANAGER}, item))[1]

    async def read(self, kind: Kind, namespace: str, name: str) -> KubernetesObject | None:
        """The object; None: there is none."""
        try:
            return (await self._request("GET", kind, kind.path(namespace, name)))[1]
        except ApiProblem as problem:
            if problem.status == 404:
                return None
            raise

    async def list_objects(self, kind: Kind, namespace: str, selector: str) -> list[KubernetesObject]:
        """The objects in `namespace` with these labels, as the API server has them now."""
        _, answer = await self._request("GET", kind, kind.path(namespace), {"labelSelector": selector})
        return list(answer["items"] or ())

    async def list_uids(self, kind: Kind, namespace: str, selector: str) -> tuple[set[str], int]:
        """uids of the objects in `namespace` (empty: in all), and the resourceVersion at which that was so."""
        metadata_only = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        query = {"labelSelector": selector} if selector else {}
        _, answer = await self._request("GET", kind, kind.path(namespace), query, accept=metadata_only)
        uids = {item["metadata"]["uid"] for item in answer["items"] or ()}  # null where there are none
        return uids, int(answer["metadata"]["resourceVersion"])

    async def knows(self, kind: Kind) -> bool:
        """Whether the API server serves this kind."""
        try:
            _, answer = await self._request("GET", kind, f"/apis/{kind.api_version}")
        except ApiProblem as problem:
            if problem.status == 404:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in answer["resources"])

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid, and what it owns after it; nothing happens if it is not there any more."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", kind, kind.path(namespace, name), {}, options)
        except ApiProblem as problem:
            if problem.status not in (404, 409):  # gone, or another one of this name
                raise

    async def _request(
        self,
        method: str,
        kind: Kind,
        path: str,
        query: dict[str, str] | None = None,
        body: KubernetesObject | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, KubernetesObject]:
        if method != "GET":
            self._may_write()
        headers = {"Accept": accept, "Content-Type": content_type}
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        API_REQUESTS.labels(method, kind.plural).inc()
        try:
            response = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=REQUEST_TIMEOUT
            )
            text = await response.read()
            # Not every refusal is an object: a path that is not served is "404 page not found".
            answer = json.loads(text or b"{}") if response.status < 400 or text.startswith(b"{") else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiProblem(
                f"{method} {path}: the API server did not answer: {error or type(error).__name__}"
            ) from error
        if response.status >= 400:
            raise _problem(response.status, answer, f"{method} {path}")
        return response.status, answer


def _problem(status: int, answer: Any, request: str) -> ApiProblem:
    """What the API server's Status object says."""
    message = answer.get("message") if isinstance(answer, dict) else None
    reason = answer.get("reason", "") if isinstance(answer, dict) else ""
    return ApiProblem(message or f"{request}: HTTP {status}", status=status, reason=reason)
