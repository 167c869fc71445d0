"""Templates as the simulators of CloudFormation accept them."""

from collections.abc import Collection
from typing import Any

from bg_pipeline.deploy import template as templates

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/bg-pipeline:0.1.0"
MODEL = "arn:aws:rekognition:us-east-1:000000000000:project/shoes/version/v1/1700000000000"
WEB = {
    "PageHost": "photos.example.com",
    "ApiHost": "api.photos.example.com",
    "CertificateArn": "arn:aws:acm:us-east-1:000000000000:certificate/12345678-1234-1234-1234-123456789012",
    "CognitoDomainPrefix": "photos-of-a-test",
}
SHAPES: dict[str, dict[str, str]] = {
    "full": {},
    "small": {"Shape": "small"},
    "page and API": {**WEB, "CustomLabelsArn": MODEL, "NotificationEmail": "me@example.com"},
}


def parameters(**given: str) -> dict[str, str]:
    return templates.parameter_values(templates.load(), {"Image": IMAGE, **given})


def without(template: dict[str, Any], kinds: Collection[str]) -> dict[str, Any]:
    """The template without resources that a simulator does not know; what refers to them gets an ARN of nothing."""
    resources = {name: each for name, each in template["Resources"].items() if each["Type"] not in kinds}
    gone = template["Resources"].keys() - resources.keys()
    for each in resources.values():
        waits = each.pop("DependsOn", [])
        if kept := [name for name in ([waits] if isinstance(waits, str) else waits) if name in resources]:
            each["DependsOn"] = kept
        if any(name in str(each.get("Properties", {}).get("ServiceRegistries")) for name in gone):
            del each["Properties"]["ServiceRegistries"]
    return {**template, "Resources": _resolved(resources, gone)}


def _resolved(node: Any, gone: Collection[str]) -> Any:
    if isinstance(node, dict):
        name = node.get("Ref") or (node["Fn::GetAtt"][0] if "Fn::GetAtt" in node else None)
        if len(node) == 1 and name in gone:
            return f"arn:aws:none:us-east-1:123456789012:{name}"
        return {key: _resolved(value, gone) for key, value in node.items()}
    return [_resolved(each, gone) for each in node] if isinstance(node, list) else node
