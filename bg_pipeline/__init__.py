"""Changes the background of thousands of photos in S3 with Amazon Rekognition and Amazon Bedrock.

From Python, without Dagster::

    import bg_pipeline

    shop = bg_pipeline.Pipeline(bucket="my-photos")  # other settings: BG_* variables, or keywords
    batch = shop.submit(["shoes/", "hat.jpg"], Prompt="a sunny beach", Ref="spring")
    print(shop.plan([batch.date]).worst_usd)
    days = shop.run([batch.date])
    for row in shop.report(batch):
        print(row.ImageName, row.Status, row.Results, row.CostUSD)
    shop.download(batch, "shoes-on-a-beach")

Without an account, ``with bg_pipeline.Pipeline.local() as shop`` uses the stand-in for AWS. `AsyncPipeline` is the
same for asyncio. docs/pipeline.ipynb shows all of it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bg_pipeline.async_pipeline import AsyncPipeline
    from bg_pipeline.definitions import BackgroundChange
    from bg_pipeline.pipeline import Pipeline

__all__ = ["AsyncPipeline", "BackgroundChange", "Pipeline"]


def __getattr__(name: str) -> Any:
    # Imported on first use: boto3 takes half a second, and the stand-in's processes do not need it.
    if name == "Pipeline":
        from bg_pipeline.pipeline import Pipeline

        return Pipeline
    if name == "AsyncPipeline":
        from bg_pipeline.async_pipeline import AsyncPipeline

        return AsyncPipeline
    if name == "BackgroundChange":
        # Imports Dagster, which only those pay for who load the component.
        from bg_pipeline.definitions import BackgroundChange

        return BackgroundChange
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
