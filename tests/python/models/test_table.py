"""The tables of docs/architectures.md say what the tests check."""

from __future__ import annotations

import pytest

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families import FAMILIES, read_config
from models import table, test_families
from models.architectures import ROWS


@pytest.mark.parametrize("section", table.SECTIONS)
def test_the_docs_say_what_is_checked(section: str) -> None:
    made = table.SECTIONS[section]()
    if made is None:
        pytest.skip("there is no table of bridged architectures")
    said = table.written(section, table.DOCS.read_text(encoding="utf-8"))
    assert said == made, "PYTHONPATH=tests/python python -m models.table --write"


def test_every_family_has_a_checkpoint_and_every_mode_is_named() -> None:
    tested = {row.family for row in ROWS.values()}
    assert set(FAMILIES) - tested == set(table.NOT_ALONE)
    assert table.MODES == test_families.MODES


@pytest.mark.parametrize("model", table.NAMED, ids=lambda model: model.name)
def test_what_airllm_names_is_what_the_table_says(model: table.Named) -> None:
    assert (model.status == "refused") == bool(model.refused)
    if model.status != "native":
        raw = {"model_type": model.model_type, "auto_map": {"AutoConfig": "configuration.Config"}}
        with pytest.raises(UnsupportedModelError, match="never executed"):
            read_config(raw)
