"""The request of a batch: its JSON is read, checked, resolved for each image, and written."""

from bg_pipeline.domain.requests.fields import (
    BLUR,
    KNOWN,
    MAX_IMAGES,
    MAX_PROMPT,
    MAX_SEED,
    NO_PRESETS,
    BatchRequest,
    FormatName,
    ImageEntry,
    ImageFields,
    ModeName,
    QualityName,
    Rendition,
    SubjectName,
    TaskName,
    names_object,
    type_of,
)
from bg_pipeline.domain.requests.problems import MAX_PROBLEMS
from bg_pipeline.domain.requests.prompts import fill, placeholder_values, placeholders
from bg_pipeline.domain.requests.reading import MAX_BYTES, read, read_image_fields
from bg_pipeline.domain.requests.renditions import filled
from bg_pipeline.domain.requests.resolved import (
    ImageSettings,
    OutputSpec,
    image_settings,
    paid_picture_fields,
    picture_fields,
)
from bg_pipeline.domain.requests.text import decode
from bg_pipeline.domain.requests.writing import default_request, retry_request, write

__all__ = [
    "BLUR",
    "KNOWN",
    "MAX_BYTES",
    "MAX_IMAGES",
    "MAX_PROBLEMS",
    "MAX_PROMPT",
    "MAX_SEED",
    "NO_PRESETS",
    "BatchRequest",
    "FormatName",
    "ImageEntry",
    "ImageFields",
    "ImageSettings",
    "ModeName",
    "OutputSpec",
    "QualityName",
    "Rendition",
    "SubjectName",
    "TaskName",
    "decode",
    "default_request",
    "fill",
    "filled",
    "image_settings",
    "names_object",
    "paid_picture_fields",
    "picture_fields",
    "placeholder_values",
    "placeholders",
    "read",
    "read_image_fields",
    "retry_request",
    "type_of",
    "write",
]
