"""Takes secrets out of what is to leave a cluster. Pure."""

import base64
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

REMOVED = "(removed)"
LEAST_CHARACTERS = 6
"""Shorter values, such as a port, are not looked for in texts: they would be found everywhere."""

HARMLESS_ANNOTATIONS = ("tandem.dev/", "batch.kubernetes.io/", "kueue.x-k8s.io/", "deployment.kubernetes.io/")
"""Beginnings of annotations whose values are kept."""
HARMLESS_VARIABLES = frozenset(
    {
        "JOB_COMPLETION_INDEX",
        "HOME",
        "USER",
        "HF_HOME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        *(
            f"TANDEM_{name}"
            for name in (
                *("JOB_FILE", "JOB_UID", "POD_NAME", "POD_IP", "ETCD_ENDPOINTS", "ETCD_DIR", "TOKEN_FILE"),
                *("TLS_DIR", "SHM_DIR", "MODEL_DIR", "CHECKPOINT_DIR", "DATA_DIR"),
            )
        ),
    }
)
"""Variables that the operator writes: none of them is secret. The values of all others are taken out."""

HARMLESS_ENTRIES = frozenset({"username", "ca.crt", "tls.crt"})
"""Entries of Secrets that are none: a job's user in etcd is named by its uid, which stands everywhere."""

_TELLING = r"(?:token|passw(?:or)?d|secret|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization)s?"
_TELLING_NAME = re.compile(_TELLING, re.IGNORECASE)
_TELLING_FLAG = re.compile(rf"--?[a-z0-9_.-]*{_TELLING}", re.IGNORECASE)
_LONG_CHARACTERS = 12
"""A value of an unknown variable that is as long is looked for in texts, whatever the variable's name."""

_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    (
        re.compile(
            r"(?i)(authorization\\?[\"']?[^\S\n]*[=:][^\S\n]*\\?[\"']?)((basic|bearer|digest|token|apikey)\s+)?[^\s\"'\\,;]+"
        ),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(?i)\b(bearer)(\s+|%20)[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@\"']+@"), rf"\1{REMOVED}@"),
    (
        re.compile(rf"(?i)([a-z0-9_.-]*{_TELLING}\\?[\"']?[^\S\n]*[=:][^\S\n]*\\?)([\"'])[^\"'\\\n]{{3,}}"),
        rf"\1\2{REMOVED}",
    ),
    (
        re.compile(
            rf"(?i)([a-z0-9_.-]*{_TELLING}\\?[\"']?[^\S\n]*[=:][^\S\n]*\\?[\"']?)"
            r"(?!(?:true|false|null|none|[\d.]+)(?:[\s\"',;&\\()]|$))[^\s\"',;&\\()]{3,}"
        ),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"), REMOVED),
    (re.compile(r"\b(hf|ghp|gho|github_pat|glpat|sk|xox[abps])[_-][A-Za-z0-9_-]{8,}"), REMOVED),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), REMOVED),
)
"""Private keys, Authorization headers, bearer tokens, passwords in addresses, assignments to names that tell of a
secret, JSON web tokens, and the tokens of well-known services."""


@dataclass(frozen=True)
class Redactor:
    """Takes out the values it knows, and what looks like a secret."""

    known: tuple[str, ...] = ()
    """Longest first."""

    @classmethod
    def of(cls, values: Iterable[str]) -> "Redactor":
        """Knows `values`, as they are, in base64, in a URL, and each of their lines."""
        words = {word.strip() for value in values for word in (value, *value.splitlines())}
        long = {word for word in words if len(word) >= LEAST_CHARACTERS and not word.startswith("-----")}
        forms = {form for word in long for form in (word, quote(word, safe=""), json.dumps(word)[1:-1])}
        forms |= {base64.b64encode(word.encode()).decode().rstrip("=") for word in (*long, *values)}
        return cls(tuple(sorted((form for form in forms if len(form) >= LEAST_CHARACTERS), key=len, reverse=True)))

    def text(self, text: str) -> str:
        """`text` without secrets."""
        for value in self.known:
            text = text.replace(value, REMOVED)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value: Any) -> Any:
        """A Kubernetes object, or a part of one, without secrets: of annotations, variables and Secrets only names
        stay, except for harmless ones."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return self._list(value)
        if not isinstance(value, dict):
            return value
        cleaned = {key: self._field(key, item, value) for key, item in value.items() if key != "managedFields"}
        return {self.text(key): item for key, item in cleaned.items()}

    def dump(self, *objects: Any) -> str:
        """Kubernetes objects as YAML, without secrets; lines are not broken."""
        return yaml.safe_dump_all([self.value(item) for item in objects], sort_keys=False, width=1_000_000)

    def _list(self, items: list[Any]) -> list[Any]:
        """Of arguments, those that follow a flag for a secret are taken out."""
        cleaned = [self.value(item) for item in items]
        for number, (flag, item) in enumerate(itertools.pairwise(items), start=1):
            if isinstance(flag, str) and isinstance(item, str) and _TELLING_FLAG.fullmatch(flag):
                cleaned[number] = REMOVED
        return cleaned

    def _field(self, key: str, item: Any, parent: dict[str, Any]) -> Any:
        if key == "annotations" and isinstance(item, dict):
            kept = {name: self.text(str(text)) for name, text in item.items() if name.startswith(HARMLESS_ANNOTATIONS)}
            return {name: kept.get(name, REMOVED) for name in item}
        if key in ("env", "httpHeaders") and isinstance(item, list):
            return [self._variable(variable) for variable in item]
        if parent.get("kind") == "Secret" and key in ("data", "stringData") and isinstance(item, dict):
            return dict.fromkeys(item, REMOVED)
        return self.value(item)

    def _variable(self, variable: Any) -> Any:
        if not isinstance(variable, dict) or "value" not in variable or variable.get("name") in HARMLESS_VARIABLES:
            return self.value(variable)
        return {**self.value({key: item for key, item in variable.items() if key != "value"}), "value": REMOVED}


def list_secret_values(objects: Sequence[Any]) -> set[str]:
    """What may be secret in `objects`: entries of Secrets, and values of variables, which logs may repeat."""
    found: set[str] = set()
    for item in objects:
        if isinstance(item, list):
            found |= list_secret_values(item)
        elif isinstance(item, dict):
            found |= list_secret_values([*item.values()])
            found |= _list_entries(item) if item.get("kind") == "Secret" else _list_variable(item)
    return found


def _list_variable(item: dict[str, Any]) -> set[str]:
    name, value = item.get("name"), item.get("value")
    if not isinstance(name, str) or not isinstance(value, str) or name in HARMLESS_VARIABLES:
        return set()
    path = value.startswith(("/", "./"))
    return {value} if _TELLING_NAME.search(name) or (len(value) >= _LONG_CHARACTERS and not path) else set()


def _list_entries(secret: dict[str, Any]) -> set[str]:
    data = {name: text for name, text in secret.get("data", {}).items() if name not in HARMLESS_ENTRIES}
    return {base64.b64decode(text).decode(errors="replace") for text in data.values()}
