"""``bg-pipeline captions``: exports or searches captions and alternative texts."""

from collections.abc import Iterable, Sequence

import click

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import dates_and_batches, existing_dates, local, output_format
from bg_pipeline.cli.terminal import console, print_message, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.reports.captions import CaptionedImage, CaptionIndex, as_csv, as_json, index_file
from bg_pipeline.reports.captions import captions as stored_captions
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket


@click.command()
@dates_and_batches
@click.option("--search", "words", help="Only images whose texts contain all these words, the best first.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="With --search: the largest number of images.",
)
@output_format()
@local
def captions(
    dates: Sequence[UploadDate], batches: tuple[Batch, ...], words: str | None, limit: int, form: str
) -> None:
    """Print the captions, alternative texts and labels of dates or batches, or search them.

    Show the alternative text (BG_ALT_TEXT_LENGTH) with the picture, for people who cannot see it. The index for the
    search is kept in BG_STATE_DIR. No model is called.

    \b
    Examples:
      bg-pipeline captions --from 2026-11-01 --format csv
      bg-pipeline captions --from 2026-11-01 --search "red bus"
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    images: Iterable[CaptionedImage]
    if words is None:
        images = stored_captions(store, configured, existing_dates(store, dates), batches)
    else:
        index = CaptionIndex(index_file(configured))
        index.update(store, configured, dates, batches)
        images = index.search(words, first=min(dates), last=max(dates), only=batches, limit=limit)
    if form == "table":
        rows = [
            (image.ImageName, image.AltText or image.Caption, image.Labels, image.Batch) for image in images
        ]
        console().print(table(("Image", "Alternative text", "Labels", "Batch"), rows))
        if not rows:
            print_message(
                "No image has a caption or labels." if words is None else f"Nothing was found for: {words}"
            )
        return
    for part in as_csv(images) if form == "csv" else as_json(images):
        click.echo(part, nl=False)
