"""Requests that are refused: a status code and a sentence, as JSON `{"error": …}`."""

from collections.abc import Mapping

from pydantic_core import to_json
from starlette.responses import Response

from recmind_dist.report.printable import printable

_LONGEST = 500


class Refusal(Exception):
    """What the client is answered.

    Attributes:
        status: of HTTP.
        sentence: names what is wrong and the remedy.
        headers: to add.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers

    def response(self) -> Response:
        """As JSON; control characters of what was sent are escaped, long sentences are cut."""
        sentence = printable(self.sentence)
        if len(sentence) > _LONGEST:
            sentence = f"{sentence[:_LONGEST]}…"
        body = to_json({"error": sentence})
        return Response(body, self.status, self.headers, "application/json")
