"""Makes the OpenAPI document that Cog makes from predict.py and train.py, without Cog's command line.

With this document at .cog/openapi_schema.json, the server checks inputs exactly as in an image that Cog has built.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from script.cog_inputs import CogInput, CogType, EntryPoint, read_entry_point

COG_VERSION = "0.23.1"
Schema = dict[str, Any]

SCHEMAS_OF_TYPES: dict[str, Schema] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "Path": {"type": "string", "format": "uri"},
    "Secret": {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True},
}
KEYS_OF_SETTINGS = {
    "description": "description",
    "default": "default",
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "regex": "pattern",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The names that Cog uses in the document for one of the two entry points."""

    noun: str
    verb: str
    prefix: str


PREDICTION = Job(noun="prediction", verb="predict", prefix="")
TRAINING = Job(noun="training", verb="train", prefix="Training")


def openapi(root: Path) -> Schema:
    """Return the document of the package at `root`. Raises ValueError for an input that Cog would alter."""
    run = read_entry_point(root / "predict.py", "Runner.run")
    train = read_entry_point(root / "train.py", "train")
    schemas = {**_schemas(PREDICTION, run), **_schemas(TRAINING, train), **_shared_schemas()}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": COG_VERSION},
        "paths": {**_probes(), **_paths(PREDICTION), **_paths(TRAINING)},
        "components": {"schemas": {**schemas, **_enumerations([*run.inputs, *train.inputs], taken=set(schemas))}},
    }


def training_inputs(root: Path) -> Schema:
    """Return the schema of each input of train.py by name, in order, with the choices inline."""
    schemas = openapi(root)["components"]["schemas"]
    inputs = schemas["TrainingInput"]["properties"]
    return {name: {**schemas[name], **schema} if "allOf" in schema else schema for name, schema in inputs.items()}


def write_schema(root: Path) -> Path:
    """Write the document to where Cog's server reads it, and return its path."""
    path = root / ".cog" / "openapi_schema.json"
    document = _as_text(openapi(root))
    path.parent.mkdir(exist_ok=True)
    path.write_text(document, encoding="utf-8")
    return path


def _as_text(document: Schema) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _schemas(job: Job, entry: EntryPoint) -> dict[str, Schema]:
    noun = job.noun.title()
    return {
        f"{job.prefix}Input": _input(f"{job.prefix}Input", entry.inputs),
        f"{job.prefix}Output": _output(entry.output),
        f"{noun}Request": _object(f"{noun}Request", {"id": _text("Id"), "input": _ref(f"{job.prefix}Input")}),
        f"{noun}Response": _object(f"{noun}Response", _response(job)),
    }


def _input(title: str, inputs: list[CogInput]) -> Schema:
    schema = _object(title, {entry.name: _property(entry, order) for order, entry in enumerate(inputs)})
    required = [entry.name for entry in inputs if "default" not in entry.settings]
    return {**schema, "required": required} if required else schema


def _property(entry: CogInput, order: int) -> Schema:
    if "choices" in entry.settings:
        shape: Schema = {"allOf": [_ref(entry.name)]}
    else:
        shape = {"title": _title(entry.name), **_type(entry.kind)}
    settings = {key: entry.settings[name] for name, key in KEYS_OF_SETTINGS.items() if name in entry.settings}
    nullable = {"nullable": True} if entry.kind.optional else {}
    return {**shape, **settings, **nullable, "x-order": order}


def _output(output: CogType | dict[str, CogType]) -> Schema:
    if isinstance(output, CogType):
        return {"title": "Output", **_type(output)}
    fields = {
        name: {"title": _title(name), **_type(kind), **({"nullable": True} if kind.optional else {})}
        for name, kind in output.items()
    }
    schema = _object("Output", fields)
    required = [name for name, kind in output.items() if not kind.optional]
    return {**schema, "required": required} if required else schema


def _response(job: Job) -> Schema:
    return {
        "input": _ref(f"{job.prefix}Input"),
        "output": _ref(f"{job.prefix}Output"),
        "id": _text("Id"),
        "version": _text("Version"),
        "created_at": {**_text("Created At"), "format": "date-time"},
        "started_at": {**_text("Started At"), "format": "date-time"},
        "completed_at": {**_text("Completed At"), "format": "date-time"},
        "status": _text("Status"),
        "error": _text("Error"),
        "logs": _text("Logs"),
        "metrics": {"title": "Metrics", "type": "object"},
    }


def _shared_schemas() -> dict[str, Schema]:
    location = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    error = {
        "loc": {"title": "Location", "type": "array", "items": location},
        "msg": _text("Message"),
        "type": _text("Error Type"),
    }
    detail = {"title": "Detail", "type": "array", "items": _ref("ValidationError")}
    return {
        "Status": _enumeration("Status", "string", ["starting", "processing", "succeeded", "canceled", "failed"]),
        "ValidationError": {**_object("ValidationError", error), "required": ["loc", "msg", "type"]},
        "HTTPValidationError": _object("HTTPValidationError", {"detail": detail}),
    }


def _enumerations(inputs: list[CogInput], *, taken: set[str]) -> dict[str, Schema]:
    """Return one component per input with choices. Cog names it after the input, so both entry points share it."""
    components: dict[str, Schema] = {}
    for entry in inputs:
        if "choices" not in entry.settings:
            continue
        name, kind = entry.name, SCHEMAS_OF_TYPES[entry.kind.name]["type"]
        enumeration = _enumeration(name, kind, entry.settings["choices"])
        if name in taken:
            raise ValueError(f"{entry.where}: {name} has choices, but Cog uses this name for a component of its own")
        if components.setdefault(name, enumeration) != enumeration:
            raise ValueError(f"{entry.where}: {name} has different choices in predict.py, which Cog would use for both")
    return components


def _probes() -> Schema:
    return {
        "/": {"get": _operation("Root", "root__get")},
        "/health-check": {"get": _operation("Healthcheck", "healthcheck_health_check_get")},
    }


def _paths(job: Job) -> Schema:
    parameter = f"{job.noun}_id"
    path = f"/{job.noun}s"
    start = {
        **_operation(job.verb.title(), f"{job.verb}_{job.noun}s_post", response=_ref(f"{job.noun.title()}Response")),
        "description": f"Run a single {job.noun} on the model",
        "requestBody": _content(_ref(f"{job.noun.title()}Request")),
    }
    cancel = {
        **_operation("Cancel", f"cancel_{job.noun}s__{parameter}__cancel_post"),
        "parameters": [{"required": True, "schema": _text(_title(parameter)), "name": parameter, "in": "path"}],
    }
    return {
        path: {"post": _with_validation_error(start)},
        f"{path}/{{{parameter}}}/cancel": {"post": _with_validation_error(cancel)},
    }


def _operation(summary: str, operation_id: str, *, response: Schema | None = None) -> Schema:
    success = {"description": "Successful Response", **_content(response or {})}
    return {"summary": summary, "operationId": operation_id, "responses": {"200": success}}


def _with_validation_error(operation: Schema) -> Schema:
    error = {"description": "Validation Error", **_content(_ref("HTTPValidationError"))}
    return {**operation, "responses": {**operation["responses"], "422": error}}


def _type(kind: CogType) -> Schema:
    schema = SCHEMAS_OF_TYPES[kind.name]
    return {"type": "array", "items": schema} if kind.repeated else schema


def _object(title: str, properties: Schema) -> Schema:
    return {"title": title, "type": "object", "properties": properties}


def _enumeration(title: str, kind: str, values: object) -> Schema:
    return {"title": title, "description": "An enumeration.", "type": kind, "enum": values}


def _text(title: str) -> Schema:
    return {"title": title, "type": "string"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Schema) -> Schema:
    return {"content": {"application/json": {"schema": schema}}}


def _title(name: str) -> str:
    return " ".join(part[:1].upper() + part[1:] for part in name.split("_"))


def main() -> None:
    """Write the document of this repository, or print it."""
    parser = argparse.ArgumentParser(prog="script/openapi", description="Write the OpenAPI schema of this package.")
    parser.add_argument("--print", action="store_true", dest="printed", help="print the schema instead of writing it")
    root = Path(__file__).resolve().parent.parent
    if parser.parse_args().printed:
        print(_as_text(openapi(root)), end="")
    else:
        print(write_schema(root))


if __name__ == "__main__":
    main()
