"""Data sets by name, and annotations that cannot be used."""

import pytest
from meddlr.data import DatasetCatalog

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.catalog import check_dataset_names, has_targets, is_cine, register_datasets
from meddlr_greedy.errors import UserError
from tests.helpers.examples import KINDS, prospective, scan_arrays


def test_registering_again_finds_new_data_and_another_root(root, annotate):
    names = ["small_cine_train", "small_cine_val", "small_plane_train", "small_plane_val"]
    assert register_datasets(root) == register_datasets(root) == names
    assert DatasetCatalog.get("small_cine_val")[0]["file_name"] == str(root / "small_cine" / "val" / "val_0.h5")
    folder = annotate(("scan", scan_arrays(0, "cine")))
    assert "small_cine_val" not in DatasetCatalog.list()
    check_dataset_names(["some_train"])
    (folder / "annotations" / "val.json").write_text("{}")
    assert register_datasets(folder.parent) == ["some_train", "some_val"]
    with pytest.raises(UserError, match=r"val\.json: not an annotation"):
        check_dataset_names(["some_val"])
    (folder / "annotations" / "train.json").unlink()
    with pytest.raises(UserError, match=r"train\.json: no such file"):
        check_dataset_names(["some_train"])
    with pytest.raises(UserError, match=r"no data set 'some_trian' .* did you mean 'some_train'"):
        check_dataset_names(["some_trian"])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{}", "not an annotation"),
        (b"[1]", "not an annotation"),
        (b'{"images": ', "not an annotation"),
        (b'{"images": 1}', "not an annotation"),
        (b'{"images": ["a.h5"]}', "not an annotation"),
        (b'{"images": [{"file_name": 1}]}', "not an annotation"),
        ('{"images": [{"file_name": "Ü.h5"}]}'.encode("latin-1"), "not an annotation"),
        (b'{"images": []}', "lists no scans"),
    ],
)
def test_annotations_that_cannot_be_used(data_cfg, annotate, content, words):
    folder = annotate(("scan", scan_arrays(0, "cine")))
    (folder / "annotations" / "train.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"train\.json: {words}"):
        build_train_loader(data_cfg("cine", "DATASETS.TRAIN", ("some_train",)), seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_kind_of_scans_a_data_set_holds(root, annotate, kind):
    assert is_cine(f"small_{kind}_val") is (kind == "cine") and has_targets(f"small_{kind}_val")
    annotate(("with", scan_arrays(0, "cine")), ("without", prospective()))
    assert is_cine("some_train") and not has_targets("some_train")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_scan_that_can_be_used_tells_the_kind(annotate, kind):
    folder = annotate(*((name, scan_arrays(0, kind)) for name in ("broken", "gone", "good", "other")))
    (folder / "broken.h5").write_bytes(b"no HDF5")
    (folder / "gone.h5").unlink()
    assert is_cine("some_train") is (kind == "cine")
    for name in ("good", "other"):
        (folder / f"{name}.h5").unlink()
    with pytest.raises(UserError, match=r"broken\.h5: truncated, damaged or not an HDF5 file"):
        is_cine("some_train")
