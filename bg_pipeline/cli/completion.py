"""``bg-pipeline completion``: prints the script with which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "bg-pipeline"
VARIABLE = "_BG_PIPELINE_COMPLETE"
"""click's variable: with it set, the program prints completions instead of running a command."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes this program's commands and options in your shell.

    \b
    Put one of these lines into your shell's start file:
      bash, ~/.bashrc:                    eval "$(bg-pipeline completion bash)"
      zsh,  ~/.zshrc, after compinit:     eval "$(bg-pipeline completion zsh)"
      fish, ~/.config/fish/config.fish:   bg-pipeline completion fish | source
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    root = click.get_current_context().find_root().command
    # The script itself, without a test of the shell's version, which would start that shell.
    completion = kind(root, {}, PROGRAM, VARIABLE)
    click.echo(completion.source_template % completion.source_vars())
