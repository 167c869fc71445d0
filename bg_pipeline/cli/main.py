"""The command line, ``bg-pipeline``."""

import importlib.metadata

import click

from bg_pipeline.cli.api import api
from bg_pipeline.cli.audit import audit
from bg_pipeline.cli.captions import captions
from bg_pipeline.cli.completion import completion
from bg_pipeline.cli.demo import demo
from bg_pipeline.cli.deploy import deploy
from bg_pipeline.cli.doctor import doctor
from bg_pipeline.cli.download import download
from bg_pipeline.cli.follow_up import approve, retry
from bg_pipeline.cli.page import page
from bg_pipeline.cli.plan import plan
from bg_pipeline.cli.publish import publish
from bg_pipeline.cli.review import review
from bg_pipeline.cli.run import run
from bg_pipeline.cli.status import report, status
from bg_pipeline.cli.submit import discard, submit
from bg_pipeline.cli.terminal import Commands
from bg_pipeline.cli.up import up
from bg_pipeline.cli.watch import watch


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(importlib.metadata.version("bg-pipeline"))
def main() -> None:
    """New backgrounds for thousands of photos; each picture is paid for once.

    Commands end with 0 if everything succeeded, 1 if something did not, and 2 for wrong usage. Results are printed to
    stdout, everything else to stderr. BATCH is YYYY/MM/DD/NAME, as it is printed everywhere, or any prefix of the
    batch in the bucket.

    \b
    Examples:
      bg-pipeline demo
      bg-pipeline submit shoes/ --prompt "a sunny beach" --run
      bg-pipeline status
      bg-pipeline download 2026/11/21/101530 -o shoes-on-a-beach
    """


for command in (
    demo,
    up,
    submit,
    watch,
    plan,
    run,
    status,
    report,
    download,
    retry,
    approve,
    discard,
    review,
    publish,
    captions,
    audit,
    page,
    api,
    doctor,
    completion,
    deploy,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
