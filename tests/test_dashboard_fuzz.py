"""Requests drawn from the description of the routes, good and bad: no answer is a fault, and each is as described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from dashboard_runs import recorded
from dashboards import Page, serving, some_run
from hypothesis import HealthCheck, given, settings
from profiles import NIGHTLY
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from twin.dashboard.experiments import Experiment
from twin.dashboard.openapi import description
from twin.dashboard.tables import open_run

REQUESTS = 10_000 if NIGHTLY else 300
"""At least so many, over all routes."""
CHECKS: Any = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance, negative_data_rejection, unsupported_method, ignored_auth,
]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One finished run, so that nobody has to guess its name, and one that goes on under a name that nobody guesses."""
    with serving() as page:
        page.served.add(open_run("run", "run", recorded(tmp_path_factory.mktemp("runs") / "run", "--duration", "1")))
        yield page


def can_be_wrong(operation: Any) -> bool:
    """Whether its parameters are not just any text, which may be left out."""
    told = description()["paths"][operation.path]["get"]["parameters"]
    return any(
        each["in"] == "query" and (each["required"] or each["schema"] != {"type": "string"}) for each in told
    )  # fmt: skip


def test_every_answer_is_as_described(page: Page) -> None:
    schema = schemathesis.openapi.from_dict(description())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == len(description()["paths"])
    asked = [(each, GenerationMode.POSITIVE) for each in operations]
    asked += [(each, GenerationMode.NEGATIVE) for each in operations if can_be_wrong(each)]
    # A route without parameters has one good request.
    draws = -(-REQUESTS // sum(1 for each, _ in asked if list(each.iter_parameters())))
    answered: dict[int, int] = {}
    for operation, mode in asked:
        # The token is given in both ways, because those are drawn too.
        @settings(max_examples=draws, suppress_health_check=list(HealthCheck), deadline=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            response = case.call_and_validate(
                base_url=f"http://{page.host}",
                headers={"Authorization": f"Bearer {page.token}"},
                params={"token": page.token},
                checks=CHECKS,
            )
            answered[response.status_code] = answered.get(response.status_code, 0) + 1

        ask()
    print(f"{sum(answered.values())} requests: {answered}")
    assert {200, 400, 404} <= set(answered) <= {200, 400, 404, 414}
    assert sum(answered.values()) >= REQUESTS


def test_runs_that_go_on_and_experiments_are_described_too(page: Page, tmp_path: Path) -> None:
    schema = schemathesis.openapi.from_dict(description())
    live = some_run(3, "live")
    live.record(0, [None if name == "action" else 0 for name in live.about.columns], {"q_values": {"noop": None}})
    page.served.add(live)
    page.served.experiments.append(Experiment("unreadable", tmp_path))
    paths = ("/api/runs", "/api/metrics/latest", "/api/metrics/history", "/api/pool", "/api/export", "/api/experiments",
             "/metrics")  # fmt: skip
    for path in paths:
        told = {"token": page.token, "run": "live", "format": "json"}
        response = requests.get(f"http://{page.host}{path}", params=told, timeout=10)
        assert response.status_code == 200
        schema[path]["GET"].validate_response(response)
    page.served.experiments.clear()
