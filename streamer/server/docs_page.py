"""The page at `/docs`: the HTTP interface as plain HTML, made from the OpenAPI schema.

The usual documentation pages fetch their scripts from elsewhere; this one needs nothing but itself.
"""

from __future__ import annotations

from html import escape
from typing import Any


def render_docs(schema: dict[str, Any]) -> str:
    """One HTML page for an OpenAPI schema, as `FastAPI.openapi()` gives it."""
    title = escape(schema["info"]["title"])
    operations = "".join(
        _operation(path, method, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title} {escape(schema['info']['version'])}</h1>"
        f"<p>{escape(schema['info'].get('description', ''))}</p>"
        '<p>The schema itself: <a href="/openapi.json">/openapi.json</a>. '
        "Errors are JSON: <code>code</code> (stable) and <code>message</code> (for people).</p>"
        f"{operations}</html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    takes = "".join(
        f"<li><code>{escape(each['name'])}</code> ({escape(each['in'])})</li>"
        for each in operation.get("parameters", ())
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        takes += f"<li>JSON body: <code>{escape(_name(body['schema']))}</code></li>"
    answers = "".join(
        f"<li>{escape(status)}: {escape(answer.get('description', ''))}</li>"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>"
        f"<ul>{takes}</ul><p>Answers</p><ul>{answers}</ul>"
    )


def _name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", schema.get("type", "object"))).rsplit("/", 1)[-1]
