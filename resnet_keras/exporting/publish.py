"""Publish: move a proved file, or a page with it, to OUT; write its report and its model card."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.exporting import web
from resnet_keras.exporting.options import Settings
from resnet_keras.exporting.prove import size
from resnet_keras.files import read_object, write_text
from resnet_keras.model_files import Metadata, metadata_path, require_replaceable_metadata
from resnet_keras.report import model_card

# What a report says until its file is there: after a kill between the two, it must not speak for
# none, or for an older one. Written before, it also shows whether the disk can take it.
_BROKEN_OFF = {"kept": False, "reason": "the export was broken off"}


def require_replaceable(out: Path, settings: Settings) -> None:
    """Refuse to replace what is not an earlier export: OUT, and what lies beside it.

    Raises:
        InputError: something else is there.
    """
    row = settings.format
    if settings.page:
        if out.exists() and not web.is_page(out) and not _is_empty(out):
            raise InputError(f"OUT exists and is not an exported page. Received: {out}")
    elif row.marker:
        if out.exists() and not (out / row.marker).exists() and not _is_empty(out):
            raise InputError(f"OUT exists and is not {row.described}. Received: {out}")
    elif out.is_dir():
        raise InputError(f"OUT must be a file, but is a folder. Received: {out}")
    if not settings.page:
        require_replaceable_metadata(out)
        for suffix in row.companions:
            if out.with_suffix(suffix).exists() and not out.exists():
                raise InputError(
                    f"{out.with_suffix(suffix)} exists, is not part of an earlier export, and "
                    f"would be overwritten: choose another name for OUT. Received: {out}"
                )
    card = _beside(out, "md")
    if card.exists() and not (card.is_file() and card.read_bytes().startswith(b"---")):
        raise InputError(
            f"{card} exists, is not a model card, and would be overwritten: choose another name "
            f"for OUT. Received: {out}"
        )


def proved(part: Path, settings: Settings) -> Path:
    """Return where the file is written that is proved: `part`, or beside it for a page."""
    return part.with_name(f"{part.name}-{web.MODEL}") if settings.page else part


def prepare(
    report: dict[str, Any], part: Path, out: Path, metadata: Metadata, settings: Settings
) -> dict[str, Any]:
    """Make `part` ready to become OUT, and put in its place what lies beside it.

    Args:
        report: of the export.
        part: the file that was proved, or where the page around it is written.
        out: what becomes of it.
        metadata: of the file.
        settings: how it was made.

    Returns:
        The report; of a page, with its bytes.
    """
    if settings.page:
        web.write_page(proved(part, settings), metadata, part)
        files = [file for file in part.rglob("*") if file.is_file()]
        report = report | {"format": "web", "bytes": size(files)}
    write_report(report | _BROKEN_OFF, out)
    if not settings.page:
        beside = [part.with_suffix(suffix) for suffix in settings.format.companions]
        for file in (*beside, metadata_path(part)):
            os.replace(file, out.with_suffix(file.suffix))
    return report


def finish(report: Mapping[str, Any], out: Path, metadata: Metadata, settings: Settings) -> None:
    """Write the model card of an OUT that is there, then the report: see `is_finished`."""
    name = f"{out.name}/{web.MODEL}" if settings.page else out.name
    write_text(_beside(out, "md"), model_card(dict(report), metadata, name))
    write_report(report, out)


def is_finished(out: Path) -> bool:
    """Tell whether an export to OUT was kept, and all that belongs to it is there.

    Raises:
        InputError: its report is damaged.
    """
    report = _beside(out, "report.json")
    return out.exists() and report.exists() and read_object(report).get("kept") is True


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """Write `OUT.report.json`."""
    write_text(_beside(out, "report.json"), json.dumps(report, indent=1) + "\n")


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.name}.{suffix}")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
