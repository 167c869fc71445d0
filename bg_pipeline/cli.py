"""The command line, ``bg-pipeline``."""

import importlib.metadata

import click

from bg_pipeline.commands.api import api
from bg_pipeline.commands.captions import captions
from bg_pipeline.commands.demo import demo
from bg_pipeline.commands.discard import discard
from bg_pipeline.commands.doctor import doctor
from bg_pipeline.commands.follow_up import approve, retry
from bg_pipeline.commands.page import page
from bg_pipeline.commands.plan import plan
from bg_pipeline.commands.publish import publish
from bg_pipeline.commands.review import review
from bg_pipeline.commands.run import run
from bg_pipeline.commands.status import report, status
from bg_pipeline.commands.submit import submit
from bg_pipeline.commands.terminal import Commands
from bg_pipeline.commands.up import up


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(importlib.metadata.version("bg-pipeline"))
def main() -> None:
    """New backgrounds for thousands of photos, each paid for once.

    Commands end with 0 if all succeeded, 1 if something did not, 2 for wrong usage.
    """


for command in (
    demo,
    up,
    submit,
    plan,
    run,
    status,
    report,
    retry,
    approve,
    discard,
    review,
    publish,
    captions,
    page,
    api,
    doctor,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
