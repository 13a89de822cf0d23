from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_answer_is_as_described(described: Any) -> None:
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    answered = []
    for result in described.get_all_operations():
        operation = result.ok()

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def validate(case: Any) -> None:
            case.call_and_validate(checks=checks)

        validate()
        answered.append(operation.label)
    assert len(answered) >= 12
