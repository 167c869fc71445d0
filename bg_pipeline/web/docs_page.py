"""The API's documentation as one HTML page without scripts, which needs nothing from other hosts."""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

_REFERENCE = "#/components/schemas/"
_METHODS = ("get", "put", "post", "delete", "patch")


def docs_page(document: Mapping[str, Any], openapi_url: str) -> str:
    """The page for an OpenAPI document; ``openapi_url`` is the address of the document itself."""
    environment = Environment(loader=PackageLoader("bg_pipeline.web"), autoescape=True, trim_blocks=True)
    environment.filters["as_json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.globals["link"] = _link
    components = document.get("components", {})
    return environment.get_template("docs.html").render(
        info=document["info"],
        openapi_url=openapi_url,
        sign_in="securitySchemes" in components,
        calls=[
            _call(path, method, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if method in _METHODS
        ],
        schemas=components.get("schemas", {}),
    )


def _call(path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "anchor": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "parameters": operation.get("parameters", ()),
        "bodies": _bodies(operation.get("requestBody", {})),
        "answers": [
            {"status": status, "description": answer["description"], "bodies": _bodies(answer)}
            for status, answer in operation["responses"].items()
        ],
    }


def _bodies(holder: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = holder.get("content", {})
    return [{"type": type, "schema": media.get("schema", {})} for type, media in content.items()]


def _link(schema: Mapping[str, Any]) -> Markup:
    """A link to the schema's section of the page, or the schema's title or type if it has none."""
    if reference := schema.get("$ref"):
        name = str(reference).removeprefix(_REFERENCE)
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if schema.get("type") == "array":
        return Markup("list of {}").format(_link(schema.get("items", {})))
    return escape(schema.get("title") or schema.get("type") or "any")
