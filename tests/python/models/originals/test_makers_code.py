"""The makers' own code against the numpy reference and against what was recorded of it."""

from __future__ import annotations

import numpy as np
import pytest

from models.originals import makers_code
from models.originals.cases import padded, reference_logits
from models.originals.golden import RECORDED, recorded

pytestmark = [
    pytest.mark.originals,
    pytest.mark.skipif(
        not makers_code.is_installed(), reason="deep-training is not here: make test-originals"
    ),
    pytest.mark.filterwarnings("ignore"),  # the code is years older than what it runs on
]

TOLERANCE = 1e-5


@pytest.mark.parametrize("name", makers_code.CODE)
def test_the_makers_code_is_the_reference_and_as_recorded(name: str) -> None:
    for key, (calls, is_padded, first) in RECORDED.items():
        if is_padded and not makers_code.takes_padding(name):
            continue
        theirs = makers_code.logits(name, calls, is_padded=is_padded)
        ours = reference_logits(name, calls, is_padded=is_padded)
        kept = padded().astype(bool) if is_padded else np.ones(ours.shape[:2], bool)
        difference = np.abs(theirs - ours)[kept].max()
        print(f"{name}, {key}: {difference:.1e}")  # noqa: T201 - shown by pytest -s
        assert difference <= TOLERANCE
        again = np.abs(theirs[:, first:] - recorded(name)[key])[kept[:, first:]].max()
        assert again <= TOLERANCE
