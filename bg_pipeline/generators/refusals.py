"""Maps the refusals of services (codes and messages) to the pipeline's errors.

The messages are those of the services (content filters of Titan and Nova, life cycle and access errors of Bedrock).
They are matched loosely, because their wording differs between models and changes over time.
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

# What a person has to do about refusals that do not end by themselves; the first match counts.
_DENIED_ACTION = re.compile(r"not authorized to perform:? (?P<action>[a-z-]+:\w+)", re.IGNORECASE)
_RESOURCE = re.compile(r"resource:? (?P<resource>arn:aws[\w-]*:bedrock:(?P<region>[a-z0-9-]*):\S*[^\s.,])")
_EXPLICIT_DENY = re.compile(r"explicit deny|service control polic", re.IGNORECASE)
_LASTING = (
    (
        re.compile(r"payment[ _](?:instrument|method)|billing", re.IGNORECASE),
        "add a valid payment method to the account (console: Billing and Cost Management, Payment preferences)",
    ),
    (
        re.compile(r"use case details|use case form", re.IGNORECASE),
        "fill in the provider's use case form (console: Amazon Bedrock, Model catalog, the model's page)",
    ),
    (
        re.compile(
            r"^operation not allowed|verif(?:y|ied|ication)|channel program|account is (?:suspended|restricted)"
            r"|account (?:is not|isn.t) authorized|not available for (?:this|your) account",
            re.IGNORECASE,
        ),
        "AWS keeps this account from the model: open a case of the kind Account and billing with AWS Support "
        "(https://console.aws.amazon.com/support/home#/case/create)",
    ),
)
SUBSCRIBE = (
    "grant aws-marketplace:Subscribe and aws-marketplace:ViewSubscriptions, or let somebody who has these rights "
    "call the model once (console: Amazon Bedrock, Model catalog, the model's page)"
)
"""What to do if nobody with the permission to subscribe has called the model yet."""
_PASSING = re.compile(
    r"try again (?:after|in)|again later|(?:is|are) being (?:set up|processed|created|completed|provisioned)"
    r"|in progress|under ?way|pending|just (?:been )?accepted|aws-marketplace|marketplace subscription",
    re.IGNORECASE,
)


def refusal(code: str, message: str) -> errors.CallError | None:
    """The error for a service's refusal; None if the message is not a refusal and the code decides alone.

    ``code`` and ``message`` are the service's. Content filters become `Blocked`, a mask prompt that matched nothing
    `SubjectNotFound`, and a model that this account cannot use now `ModelUnavailable`: ``retired`` if it will not
    return, ``passing`` if AWS is still setting up the account's access, otherwise with advice on what to do.
    Throttling and service faults are not refusals.
    """
    if _CONTENT.search(message):
        return errors.Blocked(code, message)
    if _NO_SUBJECT.search(message):
        return errors.SubjectNotFound(code, message)
    if _RETIRED.search(message):
        return errors.ModelUnavailable(code, message, retired=True)
    if code in _ACCESS_CODES or (code == "ValidationException" and _UNAVAILABLE.search(message)):
        return _unavailable(code, message)
    return None


def _unavailable(code: str, message: str) -> errors.ModelUnavailable:
    advice = _advice(message)
    if advice:
        return errors.ModelUnavailable(code, f"{message} → {advice}")
    passing = code == "AccessDeniedException" and _PASSING.search(message) is not None
    return errors.ModelUnavailable(code, message, passing=passing)


def _advice(message: str) -> str:
    for pattern, advice in _LASTING:
        if pattern.search(message):
            return advice
    denied = _DENIED_ACTION.search(message)
    resource = _RESOURCE.search(message)
    if _EXPLICIT_DENY.search(message):
        action = denied["action"] if denied else "bedrock:InvokeModel"
        where = f" in {resource['region']}" if resource and resource["region"] else ""
        return (
            f"a policy of the organization or of these credentials denies {action}{where}; a call through an "
            "inference profile needs it in every Region that the profile may use: see `bg-pipeline doctor --policy`"
        )
    if denied:
        on = f" on {resource['resource']}" if resource else ""
        return f"grant {denied['action']}{on} (`bg-pipeline doctor --policy` prints the whole policy)"
    return ""
