"""`kubectl tandem`: a program on the PATH whose name is kubectl-tandem is a plugin of kubectl."""

import typer

from tandem_local.errors_for_people import run_app
from tandem_local.kubectl_commands.diagnose import diagnose
from tandem_local.kubectl_commands.logs import logs
from tandem_local.kubectl_commands.samples import samples
from tandem_local.kubectl_commands.status import status
from tandem_local.kubectl_commands.top import top
from tandem_local.kubectl_commands.ui import ui

app = typer.Typer(
    name="kubectl tandem",
    help="How RLJobs on a cluster are: what they wait for, what they do, what is wrong.\n\n"
    "Reads by kubectl, with your own rights; changes nothing. `tandem status`, `top`, `samples` and `diagnose` show "
    "the same of jobs on one machine.",
    epilog="Start here: `kubectl tandem top`, then `kubectl tandem status JOB`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("status")(status)
app.command("top")(top)
app.command("samples")(samples)
app.command("logs")(logs)
app.command("diagnose")(diagnose)
app.command("ui")(ui)


def main() -> None:
    """Run the command; what a user can mend is told in one message, without a traceback."""
    run_app(app, "kubectl tandem")


if __name__ == "__main__":
    main()
