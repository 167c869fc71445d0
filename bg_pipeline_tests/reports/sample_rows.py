"""Two rows of one report, with any of their fields replaced."""

from typing import Any

from bg_pipeline.domain.rows import Output, Row, Status, complete_row


def cat(**fields: Any) -> Row:
    """An image that succeeded with two results of two models."""
    sample: dict[str, Any] = {
        "Id": "621f",
        "ImageName": "cat.jpg",
        "Status": Status.SUCCEEDED,
        "Ref": "SKU 7",
        "Outputs": (
            Output("out/cat_1.jpg", Status.SUCCEEDED, "", "titan-v2", "us-east-1", 42, 0.01),
            Output("out/cat_2.jpg", Status.SUCCEEDED, "", "stability", "us-west-2", 43, 0.07),
        ),
        "Labels": "Cat, Sofa",
        "Caption": "A cat on a sofa.",
        "CostUSD": 0.0812,
        "Seconds": 12.3,
    }
    return complete_row(Row(**{**sample, **fields}))


def dog(**fields: Any) -> Row:
    """An image without results, whose price is not known."""
    sample: dict[str, Any] = {
        "Id": "621f",
        "ImageName": "dog.jpg",
        "Status": Status.FAILED,
        "Error": "Throttled",
        "Cause": "the model was busy",
        "CostUSD": None,
    }
    return complete_row(Row(**{**sample, **fields}))
