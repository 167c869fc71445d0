"""The CloudFormation template, and what of it one stack needs.

A template in a request may have 51,200 bytes; the whole one is larger, as it has all shapes and Regions. What the
parameters switch off is left out, so that no bucket is needed to upload it first. The stack is the same as that which
the console makes from the whole file.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from bg_pipeline.errors import UsageError

MAX_BYTES = 51_200
"""Largest template in a request (CloudFormation user guide, "Quotas"); the whole file is uploaded by the console."""

_NOTHING = {"Ref": "AWS::NoValue"}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads ``!Ref x`` as ``{"Ref": x}`` and ``!Sub x`` as ``{"Fn::Sub": x}``."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _tagged)


def load() -> dict[str, Any]:
    """The whole template, with intrinsic functions in their long form."""
    text = resources.files("bg_pipeline.deploy").joinpath("bg-pipeline.yaml").read_text("utf-8")
    document: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 (a subclass of the safe loader)
    return document


def regions(template: Mapping[str, Any]) -> tuple[str, ...]:
    """The Regions in which the template can be used: those for which it has the models' rights."""
    return tuple(template["Mappings"]["Models"])


def parameter_values(template: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The value of each parameter: the given one, else the template's default.

    Raises `UsageError` for an unknown name, for a value that is not allowed, and for one that is missing.
    """
    parameters: Mapping[str, Mapping[str, Any]] = template["Parameters"]
    if unknown := sorted(given.keys() - parameters.keys()):
        raise UsageError(f"{unknown[0]} is not a parameter of the template; it has {', '.join(parameters)}")
    values = {}
    for name, parameter in parameters.items():
        if name not in given and "Default" not in parameter:
            raise UsageError(f"parameter {name} is missing: {parameter['Description']}")
        value = str(given.get(name, parameter.get("Default")))
        allowed = [str(each) for each in parameter.get("AllowedValues", ())]
        if allowed and value not in allowed:
            raise UsageError(f"{name} is '{value}', which is not one of {', '.join(allowed)}")
        values[name] = value
    return values


def for_stack(template: Mapping[str, Any], values: Mapping[str, str], region: str) -> dict[str, Any]:
    """The template without what these parameters and this Region leave out.

    Raises `UsageError` for a Region that it does not support.
    """
    if region not in regions(template):
        raise UsageError(
            f"the template does not support Region {region}, where not all default models work; use one of "
            f"{', '.join(regions(template))}. Photos can lie in a bucket of another Region"
        )
    conditions = {
        name: bool(_condition(template, body, values)) for name, body in template["Conditions"].items()
    }
    kept: dict[str, Any] = {}
    for part in ("Resources", "Outputs"):
        kept[part] = {
            name: _without_ifs({key: value for key, value in body.items() if key != "Condition"}, conditions)
            for name, body in template[part].items()
            if conditions.get(body.get("Condition", ""), True)
        }
    # A resource may wait for one that is not made.
    for body in kept["Resources"].values():
        waits = body.get("DependsOn", [])
        waits = [waits] if isinstance(waits, str) else waits
        if waits := [each for each in waits if each in kept["Resources"]]:
            body["DependsOn"] = waits
        else:
            body.pop("DependsOn", None)
    return {
        **{key: value for key, value in template.items() if key not in ("Conditions", "Metadata")},
        # Without the descriptions, which only the console shows, and the allowed values: see `parameter_values`.
        "Parameters": {
            name: {key: value for key, value in each.items() if key not in ("Description", "AllowedValues")}
            for name, each in template["Parameters"].items()
        },
        "Mappings": {"Models": {region: template["Mappings"]["Models"][region]}},
        **kept,
    }


def body(template: Mapping[str, Any]) -> str:
    """The template as JSON without spaces. Raises `UsageError` if it is longer than `MAX_BYTES`."""
    text = json.dumps(template, separators=(",", ":"))
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(
            f"the template for these parameters has {len(text.encode()):,} bytes, more than the {MAX_BYTES:,} of one "
            "request; make the stack in CloudFormation's console, from deploy/aws/bg-pipeline.yaml"
        )
    return text


def _condition(template: Mapping[str, Any], condition: Any, values: Mapping[str, str]) -> Any:
    """The value of a condition, or of an operand of one."""
    if not isinstance(condition, dict):
        return condition if isinstance(condition, bool) else str(condition)
    ((function, operand),) = condition.items()
    if function == "Ref":
        return values[operand]
    if function == "Condition":
        return _condition(template, template["Conditions"][operand], values)
    results = [_condition(template, each, values) for each in operand]
    if function == "Fn::Equals":
        return results[0] == results[1]
    if function == "Fn::Not":
        return not results[0]
    return {"Fn::And": all, "Fn::Or": any}[function](results)


def _without_ifs(node: Any, conditions: Mapping[str, bool]) -> Any:
    """The node with each ``Fn::If`` replaced by the branch that is taken."""
    if isinstance(node, dict):
        if node.keys() == {"Fn::If"}:
            name, if_true, if_false = node["Fn::If"]
            return _without_ifs(if_true if conditions[name] else if_false, conditions)
        parts = {key: _without_ifs(value, conditions) for key, value in node.items()}
        return {key: value for key, value in parts.items() if value != _NOTHING}
    if isinstance(node, list):
        return [each for each in (_without_ifs(each, conditions) for each in node) if each != _NOTHING]
    return node
