"""The transposes by which EXIF orientations make images upright. Knows no files."""

from PIL import Image

EXIF_TRANSPOSES = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = {EXIF_TRANSPOSES[number] for number in (5, 6, 7, 8)}
RIGHT_TO_LEFT = {EXIF_TRANSPOSES[number] for number in (2, 3, 6, 7)}
BOTTOM_UP = {EXIF_TRANSPOSES[number] for number in (3, 4, 7, 8)}
