"""A choice that speaks of what is not there is refused with the name of it."""

from types import SimpleNamespace

import pytest

from szilard.cost_model.errors import InputError
from szilard.passes.chosen import members, prepared_for

from .onnx_graphs import choose
from .test_onnx_pass import SITE


def test_the_sites_of_a_choice_in_its_order():
    assert members(choose("leave", SITE), {SITE.id: SITE}) == (SITE,)
    with pytest.raises(InputError, match="site 'site', which was not found"):
        members(choose("leave", SITE), {})


def test_what_was_prepared_in_another_format_is_none():
    choice = choose("int8_static_merged", SITE)
    made = {action: SimpleNamespace(action=action) for action in ("int8_static", "int8_dynamic")}
    assert prepared_for({SITE.id: made["int8_static"]}, choice, SITE) is made["int8_static"]
    with pytest.raises(InputError, match="is int8_static_merged, but what was prepared for site site is nothing"):
        prepared_for({}, choice, SITE)
    with pytest.raises(InputError, match="is int8_dynamic"):
        prepared_for({SITE.id: made["int8_dynamic"]}, choice, SITE)
