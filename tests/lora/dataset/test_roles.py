"""Images that other trainers keep beside the trained ones have another role; whatever only looks alike is trained."""

import time

import pytest

from lora.dataset.roles import ImageFile, Role, assign_roles

PHOTOS = ["1.jpg", "2.jpg", "3.jpg"]


def roles(*names, others=(), sizes=None):
    """The roles of the images that are not trained, by name."""
    files = [ImageFile(name, (sizes or {}).get(name, 1000)) for name in names]
    return {name: assigned.role for name, assigned in assign_roles(files, others).items()}


def within(folder, names=PHOTOS):
    return [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize("photos", ["", "img", "images", "10_ohwx person", "data/deep", "photos of me"])
@pytest.mark.parametrize("folder", ["masks", "mask", "Masks", "_masks", "img_masks", "alpha masks", "masks_1024"])
@pytest.mark.parametrize("ending", [".png", "_mask.png", "-mask.webp", ".jpg.png"])
def test_a_folder_of_masks_has_the_names_of_images_outside_of_it(photos, folder, ending):
    photos = within(photos) if photos else PHOTOS
    masks = [f"{folder}/{number}{ending}" for number in (1, 2, 3)]
    assert roles(*photos, *masks) == dict.fromkeys(masks, Role.MASK)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("1-masklabel.png", Role.MASK),
        ("1_mask.png", Role.MASK),
        ("1-mask.png", Role.MASK),
        ("1.mask.png", Role.MASK),
        ("1 mask.jpg", Role.MASK),
        ("mask_1.png", Role.MASK),
        ("1_alpha_mask.png", Role.MASK),
        ("1_matte.png", Role.MASK),
        ("1-condlabel.png", Role.CONTROL),
        ("1_depth.png", Role.CONTROL),
        ("1.canny.png", Role.CONTROL),
        ("1_openpose.png", Role.CONTROL),
        ("1_control.png", Role.CONTROL),
        ("control/1.png", Role.CONTROL),
        ("controls/1.png", Role.CONTROL),
        ("control_1/1.png", Role.CONTROL),
        ("control_images/1.png", Role.CONTROL),
        ("conditioning/1.png", Role.CONTROL),
        ("conditioning_data/1.png", Role.CONTROL),
        ("depth/1.png", Role.CONTROL),
        ("canny_maps/1.png", Role.CONTROL),
        ("_controls/1.depth.jpg", Role.CONTROL),
        ("_controls/1.mask.webp", Role.MASK),
        ("_controls/1.sapiens2_mask.webp", Role.MASK),
        ("_controlnet_cache/1.png", Role.CONTROL),
    ],
)
def test_a_mask_or_control_image_belongs_to_the_image_of_its_name(name, role):
    files = [ImageFile(name, 1000) for name in (*PHOTOS, name)]
    (assigned,) = assign_roles(files, []).items()
    assert (assigned[0], assigned[1].role, assigned[1].partner) == (name, role, "1.jpg")


@pytest.mark.parametrize(
    "names",
    [
        ["mask_party.jpg", "1.jpg"],
        ["carnival mask.jpg", "2.jpg"],
        ["1_mask.jpg", "2_mask.jpg"],
        within("masks"),
        [*within("masks", ["a.jpg", "b.jpg", "c.jpg"]), *within("people")],
        [*within("masks of venice", ["a.jpg", "b.jpg"]), *PHOTOS],
        ["remote_control.jpg", "1.jpg"],
        within("control"),
        [*within("depth", ["a.jpg"]), *PHOTOS],
        within("samples"),
        [*within("samples"), *PHOTOS],
        [*within("thumbs"), *within("fingers", ["a.jpg"])],
        within("reg"),
        [*within("reg"), *within("anna")],
        [*within("class"), *within("teachers")],
        within("reg/1_person"),
        within("regular"),
        [*within("regular"), *PHOTOS],
        ["1715000000__000000500_0.jpg", "1715000000__000000500_1.jpg"],
        ["20240101_123456.jpg", "IMG_000500_01.jpg", "step_1.jpg", "1715000000_500_0.jpg"],
    ],
)
def test_a_name_that_only_resembles_a_convention_is_trained(names):
    assert roles(*names) == {}


@pytest.mark.parametrize(
    ("photos", "folder"),
    [
        ("img/10_ohwx person", "reg/1_person"),
        ("10_ohwx person", "reg/1_person"),
        ("", "reg/1_person"),
        ("", "reg"),
        ("train/10_ohwx person", "reg"),
        ("images", "reg"),
        ("instance_images", "class_images"),
        ("instance", "class"),
        ("anna", "regularization_images/man"),
        ("anna", "Regularisation"),
        ("anna", "reg_images_woman"),
        ("anna", "reg data/1_person"),
        ("set/img/10_ohwx", "set/reg/1_person"),
    ],
)
def test_regularization_images_are_not_trained_as_the_subject(photos, folder):
    photos = within(photos) if photos else PHOTOS
    assert roles(*photos, *within(folder)) == dict.fromkeys(within(folder), Role.REGULARIZATION)


@pytest.mark.parametrize(
    "name",
    [
        "1715000000__000000500_0.jpg",  # ai-toolkit
        "samples/1715000000123__000000500_0.webp",
        "sample/my-lora_000500_00_20240911123456.png",  # fluxgym, sd-scripts, musubi
        "sample/my_lora_e000010_01_20240911123456_42.png",
        "samples/0 - a photo/2024-09-11_12-34-56-training-sample-500-1-0.jpg",  # OneTrainer
        "validation_images/step_500_a-photo_0_1024x1024.png",  # SimpleTuner
    ],
)
def test_samples_of_another_training_are_not_trained(name):
    assert roles(*PHOTOS, name) == {name: Role.SAMPLE}


def test_images_in_a_folder_of_samples_beside_weights_are_samples():
    names = within("run/samples", ["a.png"])
    assert roles(*PHOTOS, *names, others=["run/lora.safetensors"]) == dict.fromkeys(names, Role.SAMPLE)


@pytest.mark.parametrize("name", ["thumbs/1.jpg", "_thumbnails/1.png", "1_thumb.jpg", "1-thumbnail.jpg"])
def test_a_thumbnail_is_a_smaller_file_than_its_image(name):
    assert roles(*PHOTOS, name, sizes={name: 10}) == {name: Role.THUMBNAIL}
    assert roles(*PHOTOS, name) == {}


def test_a_mask_without_an_image_stays_a_mask_in_a_folder_of_masks():
    assert roles(*PHOTOS, "masks/1.png", "masks/9.png") == {"masks/1.png": Role.MASK, "masks/9.png": Role.MASK}


def test_roles_by_a_common_word_are_doubtful_and_others_are_not():
    names = ["masks/1.png", "2_mask.png", "3-masklabel.png", "depth/1.png", "control/1.png", "_controls/1.depth.jpg"]
    found = assign_roles([ImageFile(name, 1000) for name in (*PHOTOS, *names)], [])
    assert [found[name].is_doubtful for name in names] == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    "names",
    [
        [name for number in range(1500) for name in (f"{number}/masks/1.png", f"{number}/1.jpg")],
        [name for number in range(1500) for name in (f"{number}/reg/1.png", f"{number}/1.jpg")],
        [
            *(f"{'a/' * (depth + 1)}masks/{number}.png" for depth in range(16) for number in range(300)),
            *(f"{'a/' * 16}{number}.jpg" for number in range(5000)),
        ],
        [f"{folder}{number}/1.jpg" for number in range(6000) for folder in ("", "thumbs/")],
        [f"{'a/' * 1500}{number}.png" for number in range(300)],
        [f"{'- ' * 1500}{number}.png" for number in range(300)],
    ],
    ids=["folders of masks", "folders called reg", "nested masks", "thumbnails", "deep folders", "separators"],
)
def test_the_time_is_linear_in_the_names_whatever_they_are(names):
    start = time.process_time()
    roles(*names)
    assert time.process_time() - start < 2
