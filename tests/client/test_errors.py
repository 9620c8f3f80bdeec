"""The guide's page of errors: every error is on it, and what it says of them is so."""

import re
from pathlib import Path

import pytest

from headwater import errors

PAGE = (Path(__file__).parents[2] / "docs/guide/errors.md").read_text()
ROWS = {
    cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
    for line in PAGE.splitlines()
    if re.match(r"\| `\w+` \|", line)
    for cells in [line.strip("|").split(" | ")]
}
"""The rows of its tables: name, retryable, cause, what to do."""


def test_the_page_has_every_error_and_no_other() -> None:
    assert ROWS.keys() == {*errors.__all__} - {"HeadwaterError"}
    assert "`HeadwaterError` itself" in PAGE


@pytest.mark.parametrize("name", ROWS)
def test_the_page_says_whether_an_error_is_retryable_why_it_is_raised_and_what_to_do(
    name: str,
) -> None:
    retryable, cause, remedy = ROWS[name]
    assert retryable == ("yes" if getattr(errors, name).retryable else "no")
    assert len(cause) > 20
    assert len(remedy) > 10


def test_every_error_can_be_imported_from_the_package() -> None:
    import headwater

    assert {*errors.__all__} <= {*headwater.__all__}
