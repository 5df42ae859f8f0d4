"""Limits of AWS that the program relies on, compared with botocore's own model."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from poormanray import remote, shell


def shape(operation: str, member: str, *, of_output: bool = False) -> Any:  # noqa: ANN401 (untyped)
    model = botocore.session.Session().get_service_model("ssm").operation_model(operation)
    whole: Any = model.output_shape if of_output else model.input_shape
    return whole.members[member]


def test_a_chunk_is_what_one_send_takes() -> None:
    assert shape("SendCommand", "InstanceIds").metadata["max"] == remote.CHUNK


def test_one_page_tells_of_a_whole_chunk() -> None:
    assert shape("ListCommandInvocations", "MaxResults").metadata["max"] == remote.CHUNK


def test_a_small_answer_fits_into_a_list() -> None:
    parts = shape("ListCommandInvocations", "CommandInvocations", of_output=True)
    plugins = parts.member.members["CommandPlugins"]
    most = plugins.member.members["Output"].metadata["max"]
    assert most == 2_500
    assert most > shell.SMALL_ANSWER_CHARS


@pytest.mark.parametrize(
    ("member", "most"), [("StandardOutputContent", 24_000), ("StandardErrorContent", 8_000)]
)
def test_a_large_answer_fits_into_a_single_look(member: str, most: int) -> None:
    assert shape("GetCommandInvocation", member, of_output=True).metadata["max"] == most
    assert member != "StandardOutputContent" or most > shell.LARGE_ANSWER_CHARS
