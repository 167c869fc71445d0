"""What a service means by a refusal: its codes and sentences, sorted into the pipeline's errors.

The sentences are the services' own (Titan's and Nova's content filters, Bedrock's life cycle and access
errors); they are matched loosely, because their wording differs between models and over time.
"""

import re

from bg_pipeline import errors

_CONTENT = re.compile(
    r"content filter|responsible ai|content polic|content moderation|guardrail (?:has )?(?:intervened|blocked)",
    re.IGNORECASE,
)
_NO_SUBJECT = re.compile(
    r"unable to auto-?generate mask|no (?:subject|foreground) (?:was |could be )?found", re.IGNORECASE
)
_RETIRED = re.compile(r"end of (?:its )?life|marked by provider as legacy", re.IGNORECASE)
_UNAVAILABLE = re.compile(
    r"on-demand throughput isn.t supported"
    r"|model access is denied|have access to the model|not requested access"
    r"|marketplace|agreement|use case details"
    r"|model identifier is invalid|could not resolve the foundation model|model is not supported in this region"
    r"|^operation not allowed",
    re.IGNORECASE,
)
_ACCESS_CODES = ("AccessDeniedException", "ResourceNotFoundException")


def refusal(code: str, message: str) -> errors.CallError | None:
    """The error to raise for a service's refusal, or None when its code says all there is.

    ``code`` and ``message`` are the service's own. Content filters are `Blocked`, a mask that could not be
    made from words is `SubjectNotFound`, and a model that this account cannot use now is `ModelUnavailable`,
    ``retired`` when it will not come back. Throttling and faults are not refusals.
    """
    if _CONTENT.search(message):
        return errors.Blocked(code, message)
    if _NO_SUBJECT.search(message):
        return errors.SubjectNotFound(code, message)
    if _RETIRED.search(message):
        return errors.ModelUnavailable(code, message, retired=True)
    if code in _ACCESS_CODES or (code == "ValidationException" and _UNAVAILABLE.search(message)):
        return errors.ModelUnavailable(code, message)
    return None
