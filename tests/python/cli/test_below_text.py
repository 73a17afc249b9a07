"""Progress and text share a terminal without disturbing each other."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from airllm_rs.cli.below_text import BelowText
from airllm_rs.cli.run import AroundText
from airllm_rs.stats.progress import BarProgress, NoProgress

if TYPE_CHECKING:
    import pytest

SAVED = re.compile(r"\x1b7(.*?)\x1b8", re.DOTALL)


def test_the_cursor_is_put_back_and_the_line_cleared(capsys: pytest.CaptureFixture[str]) -> None:
    with BelowText().task("sweep 2", 4, unit="layers") as task:
        task.advance(1)
        task.update(4)
    written = capsys.readouterr().err
    drawn = SAVED.findall(written)
    assert ["sweep 2" in line for line in drawn] == [True, True, False]
    assert "4 of 4 layers" in drawn[1]
    assert drawn[-1] == "\r\n\x1b[2K"
    # what is left moves down and up again, once
    assert SAVED.sub("", written) == "\x1bD\x1bM"


def test_what_is_not_drawn_is_not_cleared(capsys: pytest.CaptureFixture[str]) -> None:
    with BelowText().task("sweep 2", 4):
        pass
    assert capsys.readouterr().err == ""


def test_bars_leave_the_line_of_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = AroundText(BarProgress())
    progress.text_begins()
    with progress.task("sweep 2", 4, unit="layers") as task:
        task.advance(1)
    assert "\x1b7" in capsys.readouterr().err


def test_no_progress_stays_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = AroundText(NoProgress())
    progress.text_begins()
    with progress.task("sweep 2", 4, unit="layers") as task:
        task.advance(1)
    assert capsys.readouterr().err == ""
