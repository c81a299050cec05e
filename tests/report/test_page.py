"""The report in a browser."""

from typing import Any

import pytest
from checkouts import Checkout

WIDER = "return [...document.querySelectorAll('table')].filter("
WIDER += "table => table.getBoundingClientRect().right > innerWidth).length"


@pytest.mark.slow
def test_no_table_is_cut_off(reproduced: Checkout, browser: Any) -> None:
    browser.get((reproduced.folder / "data/report/report.html").as_uri())
    assert browser.execute_script("return document.querySelectorAll('table').length") >= 6
    assert browser.execute_script(WIDER) == 0
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
