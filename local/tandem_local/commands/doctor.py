"""tandem doctor"""

import typer


def doctor() -> None:
    """Check whether this machine can run jobs, and say what to do where it cannot.

    Looks at Python and its packages, memory and /dev/shm, loopback addresses and ports, GPUs, and etcd.
    Exit code 1 if something must be mended.

    Example: `tandem doctor`
    """
    from rich.console import Console
    from rich.text import Text

    from tandem_local.examination import Level, examine_machine

    styles = {Level.GOOD: "green", Level.ADVICE: "yellow", Level.BAD: "bold red"}
    console = Console(soft_wrap=True)
    findings = examine_machine()
    for finding in findings:
        console.print(
            Text.assemble((f"{finding.level:<7}", styles[finding.level]), f"{finding.subject}: {finding.text}")
        )
        if finding.remedy:
            console.print(Text(f"       -> {finding.remedy}", style=styles[finding.level]))
    raise typer.Exit(1 if any(finding.level is Level.BAD for finding in findings) else 0)
