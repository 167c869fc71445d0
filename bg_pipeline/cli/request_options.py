"""The options of `submit` and `watch` that become fields of the batch's request."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from bg_pipeline.domain import requests
from bg_pipeline.domain.batches import Batch
from bg_pipeline.uploads.submitting import LocalFile, Upload

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--prompt", "prompts", multiple=True, help="The new background; repeat it for several backgrounds."
    ),
    click.option("--negative-prompt", help="What the background must not show."),
    click.option(
        "--mode",
        type=click.Choice(get_args(requests.ModeName)),
        help="The subject's edge; by default PRECISE: exactly the photo's pixels.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="LABEL",
        help="What to keep, such as Dog; repeat it for more. '' keeps everything that stands out.",
    ),
    click.option(
        "--task",
        type=click.Choice(get_args(requests.TaskName)),
        help="REMOVE makes the background transparent.",
    ),
    click.option(
        "--subject", type=click.Choice(get_args(requests.SubjectName)), help="How the subject is found."
    ),
    click.option(
        "--backdrop",
        metavar="#RRGGBB|KEY|FILE|blur",
        help="A colour, a picture, or the photo's own ground out of focus as the background; no model paints it.",
    ),
    click.option(
        "--scene",
        metavar="TEXT",
        help="One background for all photos, such as 'a sunlit oak table': painted and paid for once for each of at "
        "most three aspects.",
    ),
    click.option(
        "--shadow",
        metavar="none|soft [direction=0…360] [softness=0…1] [strength=0…1]",
        help="A shadow under the subject, with --backdrop or --scene; direction is where it falls, as on a clock.",
    ),
    click.option("--preset", multiple=True, help="The name of a preset of files to make from each picture."),
    click.option(
        "--seed", type=click.IntRange(min=0), help="The pictures' seed; by default derived from each photo."
    ),
    click.option("--variants", type=int, help="Pictures for each photo and prompt, 1 to 5."),
    click.option(
        "--sample", type=int, metavar="N", help="Run N images, then wait for `bg-pipeline approve`."
    ),
    click.option(
        "--max-cost-usd",
        type=float,
        metavar="USD",
        help="Most that all runs of this batch may cost together.",
    ),
    click.option("--ref", help="Your own id, such as a SKU; it is in every report."),
)


def request_options(command: F) -> F:
    """Adds the options; the command passes their values to `request_fields`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_fields(options: Mapping[str, Any], batch: Batch, others: dict[str, Upload]) -> dict[str, Any]:
    """The options as fields of a request. A local backdrop file is added to ``others`` under its key."""
    prompts, backdrop = options["prompts"], options["backdrop"]
    if backdrop and requests.names_object(backdrop) and Path(backdrop).is_file():
        # Files whose names start with a dot are never treated as photos.
        file = LocalFile(Path(backdrop), f".backdrop{Path(backdrop).suffix.lower()}")
        backdrop = batch.upload_key(file.name)
        others[backdrop] = file
    fields = {
        "Prompt": prompts[0] if len(prompts) == 1 else None,
        "Prompts": list(prompts) if len(prompts) > 1 else None,
        "NegativePrompt": options["negative_prompt"],
        "Mode": options["mode"],
        "Task": options["task"],
        "Subject": options["subject"],
        "Backdrop": backdrop,
        "Scene": options["scene"],
        "Shadow": options["shadow"],
        "Variants": options["variants"],
        "Seed": options["seed"],
        "Sample": options["sample"],
        "MaxCostUSD": options["max_cost_usd"],
        "Ref": options["ref"],
        "Renditions": [{"Preset": name} for name in options["preset"]] or None,
        # Empty labels keep everything that stands out; without the option the field is left out.
        "Labels": ", ".join(options["keep"]) if options["keep"] else None,
    }
    return {
        name: value
        for name, value in fields.items()
        if value is not None and (value != "" or name == "Labels")
    }
