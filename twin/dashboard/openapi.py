"""The description of everything that can be asked here, as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response

from twin import __version__
from twin.dashboard.answers import answer
from twin.dashboard.experiments import FIELDS
from twin.dashboard.export import FORMATS
from twin.dashboard.prometheus import CONTENT_TYPE
from twin.dashboard.runs import KEPT, POINTS

Json = dict[str, Any]
REFUSALS = (400, 401, 403, 404, 405, 413, 414, 429, 431, 503)
"""What a refusal may have as its status."""
MOST_NS = 2**63 - 1


def _object(**properties: Json) -> Json:
    """All of these and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _named(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def _or_null(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
YES: Json = {"type": "boolean"}
VALUE: Json = {"type": ["integer", "string", "null"]}

SCHEMAS: Mapping[str, Json] = {
    "Error": _object(error=_object(message=TEXT, key=TEXT, value=TEXT, allowed=TEXT)),
    "Record": {**_named(VALUE), "description": "A value for each column of the run; null is no value, never 0."},
    "State": {"type": "string", "enum": ["running", "ended", "stopped", "lost"]},
    "Run": _object(
        id=TEXT, name=TEXT, origin={"type": "string", "enum": ["live", "replayed", "recorded"]}, backend=_or_null(TEXT),
        scenario=TEXT, seed=WHOLE, config=TEXT, law=TEXT, machine=TEXT, run_dir=TEXT, period_ms=WHOLE,
        duration_ms=WHOLE, learns=YES, sensors=_list(_object(name=TEXT, limit_millicelsius=WHOLE)),
        outputs=_list(_object(name=TEXT, least=WHOLE, most=WHOLE)), columns=_list(TEXT), forecast_ms=WHOLE,
        state=_ref("State"), cycles=WHOLE, lost=WHOLE, age_ms=_or_null(WHOLE),
    ),
    "Insight": _named(_named({"type": ["number", "null"]})),
    "Pool": _object(
        size_bytes=WHOLE, used_bytes=WHOLE, free_bytes=WHOLE, fragmentation=NUMBER,
        tiers=_named(_object(blocks=WHOLE, bytes=WHOLE)), guesses=WHOLE, guesses_right=WHOLE,
        guess_accuracy=_or_null(NUMBER), map=TEXT,
    ),
    "Difference": _object(
        table=TEXT, row=_or_null(WHOLE), column=TEXT, a=VALUE, b=VALUE, time_ns=_or_null(WHOLE), note=TEXT
    ),
    "Experiment": _object(
        id=TEXT, name=TEXT, directory=TEXT, scenario=_or_null(TEXT), ticks=_or_null(WHOLE),
        state=_or_null({"type": "string", "enum": ["running", "stopped", "ended"]}), total=_or_null(WHOLE),
        done=_or_null(WHOLE), jobs_per_second=_or_null(NUMBER), left_seconds=_or_null(WHOLE), golden=_or_null(TEXT),
        tie=_or_null(YES), configurations=_list(_object(name=TEXT, total=WHOLE, done=WHOLE)), trouble=_or_null(TEXT),
    ),
}  # fmt: skip


def _query(name: str, words: str, schema: Json, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "description": words, "schema": schema}


def _whole(name: str, words: str, least: int, most: int, default: int) -> Json:
    return _query(name, words, {"type": "integer", "minimum": least, "maximum": most, "default": default})


RUN = _query("run", "A run by its id; it may be left out where there is only one.", TEXT)


def _get(summary: str, schema: Json, *parameters: Json, content_type: str = "application/json") -> Json:
    """A route that answers with JSON of this schema, or with something else of another type."""
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {
                "200": {"description": summary, "content": {content_type: {"schema": schema}}},
                **{str(status): {"$ref": "#/components/responses/Refused"} for status in REFUSALS},
            },
        }
    }


def _open(route: Json) -> Json:
    """The same for whoever comes, without a token."""
    return {"get": {**route["get"], "security": []}}


def paths() -> Json:
    """Every route."""
    exported = _get("Every record of a run, as a file.", _list(_ref("Record")), RUN)
    exported["get"]["parameters"].append(
        _query("format", "Of the file.", {"type": "string", "enum": list(FORMATS), "default": "csv"})
    )
    exported["get"]["responses"]["200"]["content"]["text/csv"] = {"schema": TEXT}
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    return {
        "/": _open(_get("The page.", TEXT, content_type="text/html")),
        "/static/{name}": _open(_get("What the page is made of.", TEXT, name, content_type="*/*")),
        "/api/runs": _get(
            "The runs and experiments that are served.",
            _object(version=TEXT, runs=_list(_ref("Run")), experiments=_list(_ref("Experiment")), now_ms=WHOLE),
        ),
        "/api/metrics/latest": _get(
            "The newest record of a run.",
            _object(
                run=TEXT, state=_ref("State"), record=_or_null(_ref("Record")), insight=_or_null(_ref("Insight")),
                pool=_or_null(_ref("Pool")),
            ),
            RUN,
        ),
        "/api/metrics/history": _get(
            "The newest records of a run, oldest first.",
            _object(run=TEXT, columns=_list(TEXT), rows=_list(_list(VALUE))),
            RUN,
            _whole("n", "How many.", 1, KEPT, 60),
        ),
        "/api/course": _get(
            "Columns of a run between two times, thinned evenly.",
            _object(
                run=TEXT, columns=_named(_list(VALUE)), first_ns=_or_null(WHOLE), last_ns=_or_null(WHOLE),
                length_ns=WHOLE,
            ),
            RUN,
            _query("columns", "Names of columns, with commas between; time_ns is always there.", TEXT),
            _whole("first_ns", "From this time of the run on.", 0, MOST_NS, 0),
            _whole("last_ns", "Up to this time of the run.", 0, MOST_NS, MOST_NS),
            _whole("points", "At most so many rows.", 2, POINTS, 600),
        ),
        "/api/difference": _get(
            "Where two runs that have ended part first.",
            _object(difference=_or_null(_ref("Difference"))),
            _query("a", "A run by its id.", TEXT, required=True),
            _query("b", "Another run by its id.", TEXT, required=True),
        ),
        "/api/pool": _get(
            "What is in the memory pool of a run that goes on; null where there is none.",
            _object(run=TEXT, pool=_or_null(_ref("Pool"))),
            RUN,
        ),
        "/api/experiments": _get("How far experiments are.", _object(experiments=_list(_ref("Experiment")))),
        "/api/export": exported,
        "/metrics": _get("What is going on now, for Prometheus.", TEXT, content_type=CONTENT_TYPE.partition(";")[0]),
        "/api/grafana.json": _get("A board for Grafana that shows /metrics.", {"type": "object"}),
        "/api/openapi.json": _get("This description.", {"type": "object"}),
    }  # fmt: skip


def description() -> Json:
    """All of it."""
    assert tuple(SCHEMAS["Experiment"]["properties"]) == FIELDS
    refused = {
        "description": "No: what is wrong, with which parameter, and what is allowed.",
        "content": {"application/json": {"schema": _ref("Error")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pulsetwin dashboard",
            "version": __version__,
            "description": "For reading only. The token is in the address that the command printed.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"query": []}],
        "paths": paths(),
        "components": {
            "schemas": dict(SCHEMAS),
            "responses": {"Refused": refused},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def openapi() -> Blueprint:
    """The route."""
    routes = Blueprint("openapi", __name__)
    told = description()

    @routes.get("/api/openapi.json")
    def described() -> Response:
        return answer(told)

    return routes
