"""What SendCommand accepts, beyond what the service model says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from poormanray.local.refusals import Refusal

# The documents that the cloud knows: parameter -> whether it must be given.
DOCUMENTS: dict[str, dict[str, bool]] = {
    "AWS-RunShellScript": {"commands": True, "workingDirectory": False, "executionTimeout": False},
}
# Source: CreateDocument's Content: 64 KB, "includes the content specified for input parameters".
DOCUMENT_BYTES_MAX = 64 * 1024
# About what AWS-RunShellScript itself takes of them.
DOCUMENT_OWN_BYTES = 1_600
# Source: the document's allowedPattern, 1 to 172800.
EXECUTION_TIMEOUT = re.compile(
    r"^([1-9][0-9]{0,4}|1[0-6][0-9]{4}|17[01][0-9]{3}|172[0-7][0-9]{2}|172800)$"
)
WORKING_DIRECTORY_MAX = 4096


def check_document(request: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the document's parameters, checked.

    Raises:
        Refusal: InvalidDocument, InvalidDocumentVersion, InvalidParameters,
            MaxDocumentSizeExceeded.
    """
    name = str(request["DocumentName"]).rpartition("/")[2]
    if name not in DOCUMENTS:
        raise Refusal("InvalidDocument", f"Document with name {request['DocumentName']} not found")
    if request.get("DocumentVersion", "$DEFAULT") not in ("$DEFAULT", "$LATEST", "1"):
        raise Refusal("InvalidDocumentVersion", f"Document version {request['DocumentVersion']}")
    if "\n" in request.get("Comment", ""):
        raise Refusal("ValidationException", "The comment is more than one line")
    given: dict[str, list[str]] = dict(request.get("Parameters") or {})
    known = DOCUMENTS[name]
    unknown = sorted(set(given) - set(known))
    missing = sorted(key for key, needed in known.items() if needed and not given.get(key))
    if unknown or missing:
        what = f"unknown {unknown}" if unknown else f"missing {missing}"
        raise Refusal("InvalidParameters", f"Invalid parameters of document {name}: {what}")
    _check_values(given)
    size = len(json.dumps(given, ensure_ascii=False).encode()) + DOCUMENT_OWN_BYTES
    if size > DOCUMENT_BYTES_MAX:
        text = f"The document with its parameters has {size} bytes, more than {DOCUMENT_BYTES_MAX}"
        raise Refusal("MaxDocumentSizeExceeded", text)
    return given


def _check_values(given: Mapping[str, list[str]]) -> None:
    for name in ("workingDirectory", "executionTimeout"):
        if len(given.get(name, [])) > 1:
            raise Refusal("InvalidParameters", f"Parameter {name} takes one string")
    timeout = (given.get("executionTimeout") or ["3600"])[0]
    if not EXECUTION_TIMEOUT.match(timeout):
        raise Refusal("InvalidParameters", f"executionTimeout {timeout!r} is not 1 to 172800")
    if len((given.get("workingDirectory") or [""])[0]) > WORKING_DIRECTORY_MAX:
        raise Refusal("InvalidParameters", "workingDirectory is too long")
