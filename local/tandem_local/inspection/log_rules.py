"""What well-known lines in logs mean, and what to do about them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogRule:
    """A pattern, and what it stands for."""

    pattern: re.Pattern[str]
    meaning: str
    remedy: str


def _rule(pattern: str, meaning: str, remedy: str) -> LogRule:
    return LogRule(re.compile(pattern, re.IGNORECASE), meaning, remedy)


RULES = (
    _rule(
        r"cuda out of memory|outofmemoryerror|cuda error: out of memory",
        "the GPU's memory was not enough",
        "For the trainer lower hybrid.trainer.tokensPerMicrobatch, set recompute, or cut the model further "
        "(tensorParallel, pipelineParallel); for the engine lower inference.gpuMemoryShare, kvCacheBytes or maxLength.",
    ),
    _rule(
        r"no available memory for the cache blocks|larger than the available kv cache",
        "the engine has too little room for its cache",
        "Raise inference.gpuMemoryShare or kvCacheBytes, or lower inference.maxLength.",
    ),
    _rule(
        r"no space left on device|disk is full",
        "a disk or shared memory is full",
        "Make the volume larger (checkpoint.size, storage.size), or raise hybrid.sharedMemory; nothing is lost.",
    ),
    _rule(
        r"gated repo|401 client error.*hugging|repository not found",
        "the Hugging Face hub does not give the model or the dataset to this job",
        "Correct the name; for one that needs consent give the pods HF_TOKEN from a Secret through spec.pods.",
    ),
    _rule(
        r"name or service not known|temporary failure in name resolution|nameresolutionerror",
        "a name cannot be resolved",
        "See whether the cluster's DNS answers, and whether pods may reach the address in the line.",
    ),
    _rule(
        r"nccl.*(timeout|error|unhandled)|watchdog caught collective",
        "ranks lost each other in a collective",
        "Look at the other ranks' logs: the one that ended first is the cause; else at the network between the nodes.",
    ),
    _rule(
        r"nvidia-smi.*fail|cuda driver version is insufficient|no cuda gpus are available|cuda unknown error",
        "the GPU cannot be used",
        "See whether the node's driver fits the image, and whether the pod's claim was given devices: "
        "kubectl get resourceclaims.",
    ),
    _rule(
        r"etcd at .* (did not answer|does not know|does not let|asks for a user)",
        "etcd does not answer, or does not let this pod in",
        "docs/etcd.md has the causes by message; look at the etcd of this installation.",
    ),
    _rule(
        r"replay buffer .* failed",
        "the replay buffer cannot be read or written",
        "The line says what the database said; see its volume, or the server and storage.urlSecret.",
    ),
    _rule(
        r"modulenotfounderror|importerror",
        "a Python module is missing",
        "The image lacks it: for a reward `module:function` build your own image on top of the rollout image "
        "(docs/images.md).",
    ),
    _rule(
        r"address already in use",
        "a port is taken",
        "With hostNetwork two pods of a node need different ports: remove it from spec.pods.",
    ),
    _rule(r"\bsegmentation fault|signal 11\b", "a process crashed in native code", "See the lines before it."),
)


@dataclass(frozen=True, slots=True)
class LogMatch:
    """A rule that a log fulfils."""

    rule: LogRule
    line: str
    """The newest such line."""


def match_rules(lines: Sequence[str]) -> list[LogMatch]:
    """The rules that these lines fulfil, in the order of RULES."""
    matches = []
    for rule in RULES:
        found = next((line for line in reversed(lines) if rule.pattern.search(line)), None)
        if found is not None:
            matches.append(LogMatch(rule, found.strip()))
    return matches


def last_error(lines: Sequence[str]) -> str:
    """The newest line that tells of an error: an exception's own, else a log line of that level; empty: none."""
    for line in reversed(lines):
        if re.match(r"(\w+\.)*\w*(Error|Exception|Exit|Interrupt)\b: ", line) or '"level": "error"' in line:
            return line.strip()
    return ""
