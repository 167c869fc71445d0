"""Names spelt in two ways (NFC and NFD) mean the same file where only one does."""

import unicodedata

import pytest

from bg_pipeline.uploads.unicode_names import match_names, normal_forms

NFC, NFD = (unicodedata.normalize(form, "chaussure été.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("wanted", "there"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_means_the_one_that_looks_the_same(wanted: str, there: str) -> None:
    assert match_names([wanted, "a.jpg"], {there, "a.jpg", "b.jpg"}) == {wanted: there, "a.jpg": "a.jpg"}


def test_a_name_that_is_there_means_itself_and_no_other() -> None:
    assert match_names([NFC, NFD], {NFC, NFD}) == {NFC: NFC, NFD: NFD}
    assert match_names([NFC], {NFC, NFD}) == {NFC: NFC}


def test_a_file_that_another_name_means_is_not_given_twice() -> None:
    assert match_names([NFC, NFD], {NFC}) == {NFC: NFC}


def test_what_may_mean_several_files_means_none() -> None:
    mixed = "chaussure e\u0301té.jpg"
    assert match_names([mixed], {NFC, NFD}) == {}
    assert match_names([mixed, NFD], {NFC}) == {}
    assert normal_forms(mixed, {NFC, NFD}) == sorted([NFC, NFD])


def test_other_letters_and_capitals_are_other_names() -> None:
    assert match_names(["ete.jpg", "ÉTÉ.jpg", "ﬁ.jpg"], {"été.jpg", "fi.jpg"}) == {}
