"""What the sandbox service and its objects on Kubernetes must agree on."""

SANDBOX_PORT = 8010
"""Where it is asked."""
SANDBOX_METRICS_PORT = 8011
"""Where its metrics are read without its token: who reads them shall not be able to run programs."""
QUEUE_METRIC = "tandem_sandbox_waiting"
"""Runs that wait for a container: what the service is scaled by."""
SANDBOX_CAPABILITIES = {
    "SYS_ADMIN": "namespaces, mounts, and writing control groups",
    "SETUID": "maps of users into a container's user namespace",
    "SETGID": "maps of groups",
    "CHOWN": "files for programs, which are other users",
    "DAC_OVERRIDE": "files of programs, and control groups whose folders nobody may write",
    "FOWNER": "modes of files that programs change: the kernel changes them in the overlay as who mounted it",
}
"""All that it needs beside being root, and what for."""
