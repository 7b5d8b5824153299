"""``skipae completion``."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a shell script for tab completion.

    \b
    bash: skipae completion bash > ~/.local/share/bash-completion/completions/skipae
    zsh:  add to ~/.zshrc: eval "$(skipae completion zsh)"
    fish: skipae completion fish > ~/.config/fish/completions/skipae.fish
    """
    from click.shell_completion import get_completion_class

    from skipae.cli import main

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click does not support {shell}")
    click.echo(kind(main, {}, "skipae", "_SKIPAE_COMPLETE").source())
