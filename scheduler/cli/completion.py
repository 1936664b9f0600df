"""`scheduler completion`: the script that makes a shell complete our commands, options and choices."""

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_SCHEDULER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Print the script that completes `scheduler` in SHELL.

    \b
    bash:  source <(scheduler completion bash)                    in ~/.bashrc
    zsh:   source <(scheduler completion zsh)                     in ~/.zshrc
    fish:  scheduler completion fish > ~/.config/fish/completions/scheduler.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(ctx.find_root().command, {}, "scheduler", _VARIABLE).source())
