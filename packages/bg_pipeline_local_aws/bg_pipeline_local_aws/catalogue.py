"""The models the stand-in offers, where they are to be had and how they must be called, as AWS did in autumn 2026.

All are alive unless the control route says otherwise: the stand-in exists to try what a retired model's account, or a
private arrangement with its provider, would still be able to do.
"""

import re
from dataclasses import dataclass

from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.rules import ModelState
from bg_pipeline_local_aws.wire import AwsError, invalid

_US = ("us-east-1", "us-east-2", "us-west-1", "us-west-2")
_EU = ("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3")
_GOV = ("us-gov-east-1", "us-gov-west-1")
_JP = ("ap-northeast-1", "ap-northeast-3")
_APAC = ("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2")


@dataclass(frozen=True, slots=True)
class Model:
    """A catalogue entry.

    ``regions`` take the bare id; ``profiles`` are geographies and the Regions that offer them. ``quotas`` are the
    lines of Service Quotas about requests a minute, with their documented defaults.
    """

    id: str
    name: str
    provider: str
    output: str
    regions: tuple[str, ...]
    profiles: dict[str, tuple[str, ...]]
    quotas: dict[str, int]

    def offered_in(self, region: str) -> bool:
        """True if the model can be called from a Region, by its own id or through a profile."""
        return region in self.regions or bool(self.profiles_in(region))

    def profiles_in(self, region: str) -> list[str]:
        """The ids of the inference profiles that may be called from a Region."""
        return [f"{geography}.{self.id}" for geography, sources in self.profiles.items() if region in sources]


def _quotas(
    product: str, on_demand: int = 0, cross_region: int = 0, world_wide: int = 0, tokens: int = 0
) -> dict[str, int]:
    """Quotas of requests a minute and, with ``tokens`` for each request, of tokens a minute."""
    kinds = {"On-demand": on_demand, "Cross-region": cross_region, "Global cross-region": world_wide}
    return {
        f"{kind} model inference {what} per minute for {product}": most * each
        for what, each in (("requests", 1), ("tokens", tokens))
        for kind, most in kinds.items()
        if most and each
    }


def _amazon(
    name: str, identity: str, output: str, quotas: dict[str, int], *regions: str, **profiles: tuple[str, ...]
) -> Model:
    return Model(identity, name, "Amazon", output, regions, profiles, quotas)


def _stability(name: str, identity: str) -> Model:
    regions = ("us-east-1", "us-east-2", "us-west-2")
    return Model(identity, name, "Stability AI", "IMAGE", (), {"us": regions}, _quotas(name, cross_region=20))


MODELS = {
    model.id: model
    for model in (
        _amazon("Titan Image Generator G1", "amazon.titan-image-generator-v1", "IMAGE",
                _quotas("Amazon Titan Image Generator G1", 60), "us-east-1", "us-west-2"),
        _amazon("Titan Image Generator G1 v2", "amazon.titan-image-generator-v2:0", "IMAGE",
                _quotas("Amazon Titan Image Generator G1 V2", 60), "us-east-1", "us-west-2"),
        _amazon("Nova Canvas", "amazon.nova-canvas-v1:0", "IMAGE",
                _quotas("Amazon Nova Canvas", 100), "us-east-1", "eu-west-1", "ap-northeast-1"),
        _stability("Stable Image Remove Background", "stability.stable-image-remove-background-v1:0"),
        _stability("Stable Image Inpaint", "stability.stable-image-inpaint-v1:0"),
        _amazon("Nova Lite", "amazon.nova-lite-v1:0", "TEXT", _quotas("Amazon Nova Lite", 2000, 4000, tokens=2000),
                "us-east-1", "eu-west-2", "us-gov-west-1", us=_US, eu=_EU, apac=_APAC),
        _amazon("Nova Pro", "amazon.nova-pro-v1:0", "TEXT", _quotas("Amazon Nova Pro", 250, 500, tokens=4000),
                "us-east-1", "eu-west-2", *_GOV, us=_US, eu=_EU, apac=_APAC),
        _amazon("Nova 2 Lite", "amazon.nova-2-lite-v1:0", "TEXT",
                _quotas("Amazon Nova 2 Lite", 0, 2000, 2000, tokens=4000),
                us=_US, eu=_EU, jp=_JP, **{"global": (*_US, *_EU, *_APAC)}),
        Model("anthropic.claude-haiku-4-5-20251001-v1:0", "Claude Haiku 4.5", "Anthropic", "TEXT", (),
              {"us": _US, "eu": _EU, "jp": _JP, "global": (*_US, *_EU, *_APAC)},
              _quotas("Anthropic Claude Haiku 4.5", 0, 10_000, 10_000, tokens=500)),
    )
}  # fmt: skip

# The services' own words, which clients have to tell apart.
_PROFILE_ONLY = (
    "Invocation of model ID {} with on-demand throughput isn’t supported. Retry your request with the ID or ARN of "
    "an inference profile that contains this model."
)
_RETIRED = (
    "This model version has reached the end of its life. "
    "Please refer to the AWS documentation for more details."
)
_UNUSED_LEGACY = (
    "Access denied. This Model is marked by provider as Legacy and you have not been actively using the model in "
    "the last 30 days."
)
_CANNOT_COMPLETE = (
    " Your AWS Marketplace subscription for this model cannot be completed at this time. If you recently fixed this "
    "issue, try again after {} minutes."
)
_NO_SUBSCRIPTION = (
    "Model access is denied due to IAM user or service role is not authorized to perform the required AWS "
    "Marketplace actions (aws-marketplace:ViewSubscriptions, aws-marketplace:Subscribe) to enable access to this "
    "model. Refer to the Amazon Bedrock documentation for further details."
)
_SUBSCRIPTION_PENDING = _NO_SUBSCRIPTION + _CANNOT_COMPLETE.format(15)
_NO_PAYMENT = (
    "Model access is denied due to INVALID_PAYMENT_INSTRUMENT:A valid payment instrument must be provided.."
    + _CANNOT_COMPLETE.format(2)
)
_EXPLICIT_DENY = (
    "User: arn:aws:sts::000000000000:assumed-role/pipeline/session is not authorized to perform: bedrock:InvokeModel "
    "on resource: arn:aws:bedrock:{}::foundation-model/{} with an explicit deny in a service control policy"
)
_REFUSALS = {
    "unused-legacy": ("ResourceNotFoundException", _UNUSED_LEGACY),
    "denied": ("AccessDeniedException", "You don't have access to the model with the specified model ID."),
    "pending": ("AccessDeniedException", _SUBSCRIPTION_PENDING),
    "no-marketplace-rights": ("AccessDeniedException", _NO_SUBSCRIPTION + _CANNOT_COMPLETE.format(5)),
    "payment": ("AccessDeniedException", _NO_PAYMENT),
    "unverified": ("ValidationException", "Operation not allowed"),
}

_ARN = re.compile(r"arn:aws:bedrock:[a-z0-9-]*:\d*:(?:foundation-model|inference-profile)/(.+)")


def bare_id(identity: str) -> str:
    """The catalogue's id within an id, a profile's id or the ARN of either."""
    arn = _ARN.fullmatch(identity)
    name = arn[1] if arn else identity
    geography, _, rest = name.partition(".")
    return rest if rest in MODELS and geography in MODELS[rest].profiles else name


def callable_model(identity: str, region: str, control: Control) -> Model:
    """The model that an id, a profile's id or an ARN names, if this account may invoke it in this Region."""
    arn = _ARN.fullmatch(identity)
    name = arn[1] if arn else identity
    model = MODELS.get(bare_id(identity))
    if model is None or name not in (model.id, *model.profiles_in(region)) or not model.offered_in(region):
        raise invalid("The provided model identifier is invalid.")
    if name == model.id and region not in model.regions:
        raise invalid(_PROFILE_ONLY.format(name))
    state = control.model_state(model.id, region)
    if state.lifecycle == "RETIRED":
        raise AwsError("ResourceNotFoundException", _RETIRED)
    if state.access == "unsubscribed":
        _subscribe(state, control)
    elif state.access == "scp-denied":
        places = [place for each in model.profiles.values() if region in each for place in each]
        denied = next((place for place in places if place != region), region)
        raise AwsError("AccessDeniedException", _EXPLICIT_DENY.format(denied, model.id))
    elif state.access in _REFUSALS:
        raise AwsError(*_REFUSALS[state.access])
    return model


def _subscribe(state: ModelState, control: Control) -> None:
    """The call of a model without a subscription begins one, and is refused until it is there."""
    before = control.subscription(state)
    control.subscribe(state)
    if before == "NOT_AVAILABLE" and state.first_call_passes:
        return
    if control.subscription(state) != "AVAILABLE":
        raise AwsError("AccessDeniedException", _SUBSCRIPTION_PENDING)
