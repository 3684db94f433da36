"""Secrets that a job refers to but does not make itself, such as a database's address."""

import base64
from pathlib import Path

from tandem_local.kubernetes_values import KubernetesObject


def load_user_secrets(home: Path) -> list[KubernetesObject]:
    """A Secret for each directory in TANDEM_HOME/secrets; its files are the entries.

    `storage.urlSecret: replay-database` finds its address in TANDEM_HOME/secrets/replay-database/url.
    """
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": directory.name},
            "data": {file.name: base64.b64encode(file.read_bytes()).decode() for file in _files(directory)},
        }
        for directory in sorted((home / "secrets").glob("*"))
        if directory.is_dir()
    ]


def _files(directory: Path) -> list[Path]:
    return [file for file in sorted(directory.iterdir()) if file.is_file()]
