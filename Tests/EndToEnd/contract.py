"""openapi.yaml as tests use it: closed, so that the server sends nothing that isn't in it, and grown, as it may become."""
import yaml

from conftest import ROOT


def load():
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


def closed(node):
    """Every schema as if it couldn't grow: `x-known-values` is an enum, `x-known-shapes` a union, `x-pattern` a pattern,
    and an object with `properties` has no others unless it says so."""
    if isinstance(node, list):
        return [closed(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {name: closed(part) for name, part in node.items()}
    if "x-known-shapes" in node:
        return {"oneOf": node["x-known-shapes"]}
    if "x-known-values" in node:
        values = node.pop("x-known-values") + ([None] if "null" in node["type"] else [])
        return {**node, "enum": values} if values else {"not": {}}
    if "x-pattern" in node:
        node["pattern"] = node.pop("x-pattern")
    if "properties" in node:
        node.setdefault("additionalProperties", False)
    return node


class Grown:
    """Answers as a later version may send them."""
    FIELD, VALUE = "addedLater", "a-value-of-later"

    def __init__(self):
        self.components = load()["components"]["schemas"]

    def value(self, value, schema):
        """With an unknown field in each object, and an unknown value wherever the contract lists the known ones."""
        while "$ref" in schema:
            schema = self.components[schema["$ref"].rsplit("/", 1)[1]]
        if isinstance(value, dict) and "x-known-values" in schema:
            return {self.FIELD: 1}
        if "x-known-values" in schema:
            return self.VALUE if value is not None else None
        if isinstance(value, list):
            return [self.value(item, schema["items"]) for item in value]
        for member in schema.get("oneOf", []) + schema.get("anyOf", []):
            if value is not None and "$ref" in member:
                resolved = self.components[member["$ref"].rsplit("/", 1)[1]]
                if isinstance(value, dict) and set(resolved.get("required", ["?"])) <= set(value):
                    return self.value(value, resolved)
        if isinstance(value, dict) and "properties" in schema:
            known = {name: self.value(part, schema["properties"][name]) for name, part in value.items()}
            return {**known, self.FIELD: {"of": ["later"]}}
        return value
