"""The offered models with their Regions, inference profiles and quotas, as on AWS in autumn 2026.

All are active unless a control route changes that, including models that AWS has retired: the stand-in also serves to
test what an account with private access to such a model could still do.
"""

import re
from dataclasses import dataclass

from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.protocol import AwsError, validation_error
from bg_pipeline_local_aws.rules import ModelState

_US = ("us-east-1", "us-east-2", "us-west-1", "us-west-2")
_EU = ("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3")
_GOV = ("us-gov-east-1", "us-gov-west-1")
_JP = ("ap-northeast-1", "ap-northeast-3")
_APAC = ("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2")


@dataclass(frozen=True, slots=True)
class Model:
    """A catalogue entry.

    In ``regions`` the model can be called by its id. ``profiles`` maps each geography of an inference profile to the
    Regions from which that profile can be called. ``quotas`` are names and documented defaults in Service Quotas.
    """

    id: str
    name: str
    provider: str
    output: str
    regions: tuple[str, ...]
    profiles: dict[str, tuple[str, ...]]
    quotas: dict[str, int]

    def offered_in(self, region: str) -> bool:
        """True if the model can be called from a Region, by its id or through a profile."""
        return region in self.regions or bool(self.profiles_in(region))

    def profiles_in(self, region: str) -> list[str]:
        """The ids of the inference profiles that can be called from a Region."""
        return [f"{geography}.{self.id}" for geography, sources in self.profiles.items() if region in sources]


def _quotas(
    product: str, on_demand: int = 0, cross_region: int = 0, world_wide: int = 0, tokens: int = 0
) -> dict[str, int]:
    """Quotas of requests per minute and, if ``tokens`` (per request) is given, of tokens per minute."""
    kinds = {"On-demand": on_demand, "Cross-region": cross_region, "Global cross-region": world_wide}
    return {
        f"{kind} model inference {unit} per minute for {product}": limit * factor
        for unit, factor in (("requests", 1), ("tokens", tokens))
        for kind, limit in kinds.items()
        if limit and factor
    }


def _amazon(
    name: str, identity: str, output: str, quotas: dict[str, int], *regions: str, **profiles: tuple[str, ...]
) -> Model:
    return Model(identity, name, "Amazon", output, regions, profiles, quotas)


def _stability(name: str, identity: str) -> Model:
    regions = ("us-east-1", "us-east-2", "us-west-2")
    return Model(identity, name, "Stability AI", "IMAGE", (), {"us": regions}, _quotas(name, cross_region=20))


def _text_to_image(name: str, identity: str) -> Model:
    quotas = _quotas(f"Stability.ai {name}", 10)
    return Model(identity, name, "Stability AI", "IMAGE", ("us-west-2",), {}, quotas)


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
        _text_to_image("Stable Image Core", "stability.stable-image-core-v1:1"),
        _text_to_image("Stable Image Ultra", "stability.stable-image-ultra-v1:1"),
        _text_to_image("Stable Diffusion 3.5 Large", "stability.sd3-5-large-v1:0"),
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

# Error messages as AWS words them; clients distinguish them by their text.
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


def base_model_id(identity: str) -> str:
    """The catalogue's id of a model id, a profile id or the ARN of either; an unknown id is returned unchanged."""
    arn = _ARN.fullmatch(identity)
    name = arn[1] if arn else identity
    geography, _, rest = name.partition(".")
    return rest if rest in MODELS and geography in MODELS[rest].profiles else name


def resolve_model(identity: str, region: str, control: Control) -> Model:
    """The model of an id, a profile id or an ARN; raises `AwsError` if the account may not call it in the Region."""
    arn = _ARN.fullmatch(identity)
    name = arn[1] if arn else identity
    model = MODELS.get(base_model_id(identity))
    if model is None or name not in (model.id, *model.profiles_in(region)) or not model.offered_in(region):
        raise validation_error("The provided model identifier is invalid.")
    if name == model.id and region not in model.regions:
        raise validation_error(_PROFILE_ONLY.format(name))
    state = control.model_state(model.id, region)
    if state.lifecycle == "RETIRED":
        raise AwsError("ResourceNotFoundException", _RETIRED)
    if state.access == "unsubscribed":
        _subscribe(state, control)
    elif state.access == "scp-denied":
        destinations = [other for each in model.profiles.values() if region in each for other in each]
        denied = next((other for other in destinations if other != region), region)
        raise AwsError("AccessDeniedException", _EXPLICIT_DENY.format(denied, model.id))
    elif state.access in _REFUSALS:
        raise AwsError(*_REFUSALS[state.access])
    return model


def _subscribe(state: ModelState, control: Control) -> None:
    """Starts the subscription if there is none; raises AccessDeniedException until it is available."""
    before = control.subscription(state)
    control.subscribe(state)
    if before == "NOT_AVAILABLE" and state.first_call_passes:
        return
    if control.subscription(state) != "AVAILABLE":
        raise AwsError("AccessDeniedException", _SUBSCRIPTION_PENDING)
