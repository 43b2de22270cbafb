"""Takes from a service's OpenAPI document the operations a provider uses, as shapes without the service's words.

usage: slice.py hetzner|daytona DOCUMENT > plugins/NAME/tests/openapi.json
"""
import json
import re
import sys

USED = {
    "hetzner": """
        get post /servers        get put delete /servers/{id}
        get post /ssh_keys       delete /ssh_keys/{id}
        get /images /images/{id} get /server_types /locations
    """,
    "daytona": """
        get post /sandbox                              get delete /sandbox/{sandboxIdOrName}
        post /sandbox/{sandboxIdOrName}/start          put /sandbox/{sandboxIdOrName}/labels
        post /sandbox/{sandboxId}/last-activity        get /sandbox/{sandboxId}/toolbox-proxy-url
        post delete /sandbox/{sandboxIdOrName}/ssh-access
        get /api-keys/current /snapshots/{id}
    """,
}
# Texts for people, and what only tools of others read.
WORDS = {"description", "summary", "title", "example", "examples", "externalDocs", "tags", "contact", "x-codegen", "deprecated"}


def operations(used):
    """Methods, and the paths they are of."""
    methods, wanted = [], set()
    for word in used.split():
        if word.startswith("/"):
            wanted |= {(word, method) for method in methods}
            done = True
        else:
            methods, done = ([word] if not methods or done else methods + [word]), False
    return wanted


def shape(node, names=False):
    """A node without words; under `properties` and in maps of names, keys are names and all of them stay."""
    if isinstance(node, list):
        return [shape(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or not (key in WORDS or key.startswith("x-"))}
    out = {key: shape(value, key in ("properties", "schemas", "responses", "paths") and not names) for key, value in kept.items()}
    if "content" in out or (not names and "headers" in out):
        out["description"] = ""
    # Ranges of status codes are written in capitals.
    return {re.sub("^([45])xx$", r"\1XX", key): value for key, value in out.items()}


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def at(document, reference):
    node = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def put(out, reference, node):
    *path, last = reference.removeprefix("#/").split("/")
    for part in path:
        out = out.setdefault(part, {})
    out[last] = node


def main(name, file):
    document = json.load(open(file))
    out = {"openapi": document["openapi"], "info": {"title": name, "version": document["info"]["version"]}, "paths": {}}
    if "security" in document:
        out["security"] = document["security"]
    if "securitySchemes" in document["components"]:
        out["components"] = {"securitySchemes": shape(document["components"]["securitySchemes"], True)}
    for path, method in sorted(operations(USED[name])):
        there = document["paths"][path]
        kept = out["paths"].setdefault(path, {})
        if "parameters" in there:
            kept["parameters"] = shape(there["parameters"])
        kept[method] = shape(there[method])
        for answer in kept[method]["responses"].values():
            answer.setdefault("description", "")
    seen, todo = set(), list(references(out))
    while todo:
        reference = todo.pop()
        if reference not in seen:
            seen.add(reference)
            node = shape(at(document, reference))
            put(out, reference, node)
            todo += references(node)
    json.dump(out, sys.stdout, indent=1, sort_keys=True)
    print()


main(*sys.argv[1:])
