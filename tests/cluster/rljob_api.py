"""RLJobs on a real API server, as JSON: what `kubectl` sends and gets."""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

GROUP = "/apis/tandem.dev/v1alpha1"
MERGE = "application/merge-patch+json"

type Object = dict[str, Any]


class Refused(Exception):
    """The API server's message."""


class Api:
    """A client for one namespace; fields that the server does not know are errors, as with kubectl."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        access = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=access)
        context = ssl.create_default_context(cafile=access.ssl_ca_cert)
        if access.cert_file:
            context.load_cert_chain(access.cert_file, access.key_file)
        headers = {setting["key"]: setting["value"] for setting in access.auth_settings().values()}
        self._client = httpx.Client(base_url=access.host, headers=headers, verify=context)
        self._jobs = f"{GROUP}/namespaces/{namespace}/rljobs"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def request(self, method: str, path: str, body: Object | None = None, **headers: str) -> Object:
        """The answer; raises Refused."""
        content = None if body is None else json.dumps(_as_kubectl_writes(body))
        kind = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        answer = self._client.request(method, path, content=content, headers=kind)
        found: Object = answer.json()
        if answer.is_error:
            raise Refused(found["message"])
        return found

    def create(self, job: Object, *, dry_run: bool = False) -> Object:
        """The job as the server has it."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.request("POST", self._jobs + query, job)

    def edit(self, name: str, change: Mapping[str, Any], *, part: str = "", dry_run: bool = False) -> Object:
        """A merge patch of the job, or of its `/status` or `/scale`."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.request("PATCH", f"{self._jobs}/{name}{part}{query}", dict(change), Content_Type=MERGE)

    def read(self, name: str, **headers: str) -> Object:
        return self.request("GET", f"{self._jobs}/{name}", **headers)


def _as_kubectl_writes(value: Any) -> Any:
    """`value` with 2 for 2.0: a rule would find 2.0 not to be a whole number, though the schema takes it for one."""
    if isinstance(value, dict):
        return {key: _as_kubectl_writes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_kubectl_writes(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e21 else value
