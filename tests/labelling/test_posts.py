from __future__ import annotations

import html
import json
import re
import unicodedata
from importlib.resources import files

import pytest

from offline_marl.labelling.posts import NAME, LeaseRequest, MalformedPostError, read_post

TAKEN = ("Ann", "Zoë Müller", "हिन्दी", "ไทยคน", "می‌خواهم", "李雷", "Ⅻ", "ann_2@lab.org", "-dash")
REFUSED = ("x²", "½ann", " ann", "a/b", "<b>", "a\tb", "", "a" * 65)


def lease(name: str) -> str:
    request: LeaseRequest = read_post(LeaseRequest, json.dumps({"annotator": name}).encode())
    return request.annotator


def test_the_page_and_the_server_take_the_same_names() -> None:
    page = files("offline_marl.labelling").joinpath("page").joinpath("label.html").read_text(encoding="utf-8")
    found = re.search(r'<input id="name"[^>]* maxlength="64"[^>]* pattern="([^"]+)"', page)
    assert found is not None
    assert f"^{html.unescape(found[1])}$" == NAME.replace("{0,63}", "*")
    assert [lease(name) for name in TAKEN] == list(TAKEN)


@pytest.mark.parametrize("name", REFUSED)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(MalformedPostError, match="annotator: "):
        lease(name)


def test_a_name_is_one_person_however_a_keyboard_writes_its_accents() -> None:
    one, other = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    assert one != other and lease(one) == lease(other) == one
