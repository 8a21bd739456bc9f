"""What kind of file a name says: an image, or something that is not used in training, with the reason."""

import re

# A file with such a name counts as an image, whatever its content.
IMAGE_NAME = re.compile(
    r"\.(jpe?g|jpe|jfif|png|webp|bmp|dib|gif|tiff?|avif|hei[cf]|hif|jp2|jxl|tga|ico)$", re.IGNORECASE
)
ARCHIVE_NAME = re.compile(r"\.(zip|tar|gz|tgz|bz2|xz|zst|rar|7z)$", re.IGNORECASE)
WEIGHTS_NAME = re.compile(r"\.(safetensors|ckpt|pth?|bin|gguf|onnx|np[yz])$", re.IGNORECASE)
# Files in which other tools keep captions.
TEXT_NAME = re.compile(r"\.(txt|caption|cap|jsonl?|csv|tsv|rtf|ya?ml|toml|xml|xmp|md)$", re.IGNORECASE)
# Kinds that are never used, even if their content can be read as an image: some source files of photographs are TIFF
# files whose first image is a thumbnail.
UNUSED = (
    (ARCHIVE_NAME, "an archive inside the archive: add its images directly"),
    (
        re.compile(
            r"\.(dng|cr[23w]|nef|nrw|arw|srf|sr2|raf|orf|rw2|pef|raw|3fr|iiq|psd|psb|xcf|kra|clip|afphoto|ai|svg|exr|hdr)$",
            re.IGNORECASE,
        ),
        "an unsupported image format: convert it to JPEG or PNG",
    ),
    (
        re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|wmv|flv|mpe?g|m2ts|mts|3gp|ogv|insv)$", re.IGNORECASE),
        "a video: only images are trained; save some of its frames as images",
    ),
    (WEIGHTS_NAME, "weights or cached tensors, not an image"),
)
NEITHER = "neither an image nor a caption"


def unused_reason(name: str) -> str | None:
    """Why a file of this name is never used, whatever its content; None if it may be."""
    return next((reason for kind, reason in UNUSED if kind.search(name)), None)


def has_image_name(name: str) -> bool:
    """Whether a file counts as an image by its name."""
    return IMAGE_NAME.search(name) is not None and unused_reason(name) is None


def is_text(name: str) -> bool:
    """Whether a file may hold captions by its name. It is unpacked, so that a report can say what it is."""
    return TEXT_NAME.search(name) is not None
