"""The `tandem` command. Nothing heavy is imported before a command needs it: `tandem --help` is to be quick."""

import typer

from tandem_local.commands.data import data
from tandem_local.commands.diagnose import diagnose
from tandem_local.commands.doctor import doctor
from tandem_local.commands.init_model import init_model
from tandem_local.commands.logs import logs
from tandem_local.commands.ps import ps
from tandem_local.commands.render import render
from tandem_local.commands.report import report
from tandem_local.commands.run import run, serve
from tandem_local.commands.samples import samples
from tandem_local.commands.scale import scale
from tandem_local.commands.status import status
from tandem_local.commands.stop import stop
from tandem_local.commands.top import top
from tandem_local.commands.ui import ui
from tandem_local.commands.validate import validate
from tandem_local.errors_for_people import run_app

app = typer.Typer(
    name="tandem",
    help="Reinforcement-learning post-training: Megatron and vLLM take turns on the same devices.\n\n"
    "The same RLJob files run on one machine (`tandem run`) and on a cluster (`kubectl apply`).",
    epilog="Start here: `tandem doctor`, then `tandem run examples/addition.yaml`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("run")(run)
app.command("ps")(ps)
app.command("status")(status)
app.command("top")(top)
app.command("samples")(samples)
app.command("logs")(logs)
app.command("diagnose")(diagnose)
app.command("scale")(scale)
app.command("stop")(stop)
app.command("ui")(ui)
app.command("report")(report)
app.command("validate")(validate)
app.command("render")(render)
app.command("init-model")(init_model)
app.command("doctor")(doctor)
app.add_typer(data)
app.command("serve", hidden=True)(serve)


def main() -> None:
    """Run the command; what a user can mend is told in one message, without a traceback."""
    run_app(app, "tandem")
