"""What a Router is told of trouble that passes."""

from starlette.requests import Request

from isthmus.bridge.problems import MEDIA_TYPE, answer_to
from isthmus.errors import ProviderTrouble, Retry


async def test_trouble_with_a_store_or_the_database_is_answered_with_when_to_come_again() -> None:
    trouble = ProviderTrouble("S3 at host:1 is busy", retry=Retry.LATER, hint="for the operator")
    answer = await answer_to(Request({"type": "http"}), trouble)
    assert (answer.status_code, answer.headers["retry-after"], answer.media_type) == (503, "1", MEDIA_TYPE)
    assert b"operator" not in bytes(answer.body)
