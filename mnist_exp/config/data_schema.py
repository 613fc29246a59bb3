"""The config of the data: where the images are, how they are read, and how they are split."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from mnist_exp.config.field_types import Count, Fraction, Frozen, Seed
from mnist_exp.suggest import did_you_mean


class FileSpec(Frozen):
    """A file of a data set; in YAML, either its name or a mapping of its name and digests."""

    name: str
    sha256: str | None = None
    """SHA-256 of the uncompressed content."""
    gz_sha256: str | None = None
    """SHA-256 of the archive `<name>.gz`, for data sets without a published digest of the content."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


# The parts of each source. Test parts may be null if the data set has no test images.
PARTS = {
    "idx": ("train_images", "train_labels", "test_images", "test_labels"),
    "csv": ("train", "test"),
    "npz": ("archive",),
    "folder": ("train", "test"),
    "digits": (),
}


class DataConfig(Frozen):
    """The source of the images, their shape and classes, and how they are split."""

    name: str
    source: Literal["idx", "csv", "npz", "folder", "digits"]
    files: dict[str, FileSpec | None]
    mirrors: tuple[str, ...]
    keras_cache: FileSpec | None
    dir: str | None
    shape: tuple[Count, Count, Count]
    classes: Annotated[int, Field(ge=2)]
    class_names: tuple[str, ...] | None
    val_fraction: Fraction
    split_seed: Seed
    limit: Count | None
    fallback: str | None
    """The option of `data` that is used if this data is not found; None: missing data is an error."""
    balance: Literal["oversample"] | None = None
    """Whether training images of rarer classes are repeated until all classes have the same number."""
    resize: Literal["fit", "crop", "stretch"] | None = None
    """How image files of other sizes are scaled to `shape`; None: they are refused."""
    scale: float | tuple[float, float] | None = None
    """The value of white, or the values of black and white.

    None: 0 and 255, or 0 and 65,535 in 16-bit image files."""
    label_offset: int | None = None
    """The label of the first class; None: 0."""
    label_column: int | str | None = None
    """The column of a CSV file that holds the label.

    None: the one that the header names as the label, or else the first."""
    transpose: bool | None = None
    """Whether rows and columns are exchanged; None: only in EMNIST's files."""
    skip_bad: bool = False
    """Whether damaged image files are skipped instead of causing an error."""
    verify: bool = False
    """Whether `check` reads the pixels as well."""

    _alternative: str | None = PrivateAttr(None)

    def for_model(self, alternative: str = "") -> DataConfig:
        """Mark this copy of a config as data for a saved model, which determines the shape and the classes.

        `alternative` ends messages about images of another form; it says what to do with them.
        """
        self._alternative = alternative
        return self

    @property
    def alternative(self) -> str | None:
        """The end of a message about images of another form, for a saved model; None if `shape` can be changed."""
        return self._alternative

    def __hash__(self) -> int:
        return hash((self.name, self.source, self.dir))  # `files` is not hashable

    @property
    def parts(self) -> dict[str, FileSpec]:
        """The files of the parts that are not null, in the order of `PARTS`."""
        return {part: spec for part in PARTS[self.source] if (spec := self.files[part]) is not None}

    @property
    def as_found(self) -> DataConfig:
        """The config without the settings that split, limit or repeat the images after reading them.

        Configs that differ only in these settings become equal.
        """
        return self.model_copy(update={"limit": None, "val_fraction": 0.0, "split_seed": 0, "balance": None})

    @field_validator("fallback")
    @classmethod
    def _an_option_or_none(cls, value: str | None) -> str | None:
        return None if value == "error" else value

    @field_validator("files", mode="before")
    @classmethod
    def _no_files(cls, value: Any) -> Any:
        return {} if value is None else value  # null in configs saved by earlier versions

    @field_validator("files")
    @classmethod
    def _parts_of_the_source(
        cls, value: dict[str, FileSpec | None], info: ValidationInfo
    ) -> dict[str, FileSpec | None]:
        source = info.data.get("source")
        if source is None:  # the source is invalid, and reported as such
            return value
        parts = PARTS[source]
        for part in value:
            if part not in parts:
                known = f"has {', '.join(parts)}" if parts else "reads no files"
                raise ValueError(f"{part}: no such part{did_you_mean(part, parts)}; source {source} {known}")
        for part in parts:
            if part not in value:
                raise ValueError(f"{part}: missing; source {source} has {', '.join(parts)}")
            _check_part(source, part, value[part])
        if source == "idx" and (value["test_images"] is None) != (value["test_labels"] is None):
            raise ValueError("test_images and test_labels: must both be file names or both be null")
        return value

    @field_validator("mirrors", "keras_cache")
    @classmethod
    def _of_idx_files(
        cls, value: tuple[str, ...] | FileSpec | None, info: ValidationInfo
    ) -> tuple[str, ...] | FileSpec | None:
        source = info.data.get("source", "idx")
        if value and source != "idx":
            raise ValueError(f"can only be set for IDX files; the source is {source}")
        return value

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Absolute, because runs may be resumed and repeated from other directories. An empty environment variable
        # counts as unset.
        if value:
            return os.path.abspath(os.path.expanduser(value))
        files = info.data.get("files")
        if files and not info.data.get("mirrors") and not info.data.get("keras_cache"):
            names = ", ".join(spec.name for spec in files.values() if spec is not None)
            content = "a folder of images for each class" if info.data.get("source") == "folder" else names
            raise ValueError(f"give the folder that holds {content}: data.dir=…")
        return None

    @field_validator("shape", mode="before")
    @classmethod
    def _three(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise ValueError(f"must be [height, width, channels], found {value}")
        return tuple(value)

    @field_validator("shape")
    @classmethod
    def _grey_or_colour(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if value[2] not in (1, 3):
            raise ValueError(f"must be [height, width, channels] with 1 or 3 channels, found {list(value)}")
        return value

    @field_validator("scale")
    @classmethod
    def _black_is_not_white(cls, value: float | tuple[float, float] | None) -> float | tuple[float, float] | None:
        black, white = value if isinstance(value, tuple) else (0, value)
        if black == white:
            raise ValueError(
                f"must be the value of white, or [black, white]; white must differ from black, found {value}"
            )
        return value

    @field_validator("resize", "skip_bad")
    @classmethod
    def _of_image_files(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("source", "folder") != "folder":
            raise ValueError(f"can only be set for image files (data=folder); the source is {info.data['source']}")
        return value

    @field_validator("label_column")
    @classmethod
    def _of_csv(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        if value is not None and info.data.get("source", "csv") != "csv":
            raise ValueError(f"can only be set for CSV files; the source is {info.data['source']}")
        return value

    @model_validator(mode="after")
    def _names_each_class(self) -> DataConfig:
        if self.class_names is not None and len(self.class_names) != self.classes:
            names = f"{len(self.class_names)} name{'s' * (len(self.class_names) != 1)}"
            raise ValueError(f"class_names must have one name per class, found {names} for {self.classes} classes")
        if self.class_names is not None and len(set(self.class_names)) < self.classes:
            twice = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise ValueError(f"class_names contains {twice!r} twice; the names must be distinct")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.mirrors or self.keras_cache:  # these become names of files in the cache
            used = {"name": self.name, **{f"files.{part}": spec.name for part, spec in self.parts.items()}}
            for key, name in used.items():
                if not re.fullmatch(r"\w[\w.+-]*", name):
                    raise ValueError(
                        f"{key} must consist of letters, digits, '_', '.', '+' and '-', found {name!r}"
                    )
        if self.mirrors and self.dir is None:
            for part, spec in self.parts.items():
                if spec.sha256 is None and spec.gz_sha256 is None:
                    raise ValueError(
                        f"files.{part} must have a sha256 or gz_sha256 to be downloaded from a mirror"
                    )
        if self.source == "digits" and self.dir is not None:
            raise ValueError(f"dir={self.dir}: the digits are built in, so no folder is read")
        return self


def _check_part(source: str, part: str, spec: FileSpec | None) -> None:
    """Raise `ValueError` if a part of the data lacks its file, or has an unsuitable kind of digest."""
    if spec is None:
        if not part.startswith("test"):
            raise ValueError(f"{part}: must name a file; only a test set may be null")
    elif source == "folder" and spec.sha256 is not None:
        raise ValueError(f"{part}: a folder has no sha256")
    elif source != "idx" and spec.gz_sha256 is not None:
        raise ValueError(f"{part}: gz_sha256 is only for IDX files, which may be gzip archives")
