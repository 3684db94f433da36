"""kubectl tandem status"""

from tandem_local.kubectl_commands.options import Context, Job, Kubeconfig, Namespace, Watch, open_source


def status(
    job: Job, watch: Watch = None, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Show how a job is: phase, what it waits for and what to do, pods and engines, where the seconds of its iterations
    went, Events.

    What only the job's pods reach (etcd, the replay buffer) is asked by `kubectl exec` in them. Without the right to do
    that, the rest is shown.

    Examples:

    - `kubectl tandem status addition`
    - `kubectl tandem status addition -n team-a --watch 5`
    """
    from tandem_local.inspection.showing import show_status

    show_status(open_source(namespace, context, kubeconfig), job, watch)
