"""What `export` writes for other programs."""

from __future__ import annotations

from pathlib import Path

from fixia_shardmig.cli.session import Session
from fixia_shardmig.model.errors import RefusedError


def export_poolers(session: Session, out: Path | None) -> None:
    """Show PgBouncer's files, or write them into a directory; one that is there already is not overwritten."""
    from fixia_shardmig.cutover.pooler_files import exported
    from fixia_shardmig.mapping.load import read_mapping

    mapping_file = read_mapping(session.mapping_file())
    session.migration = mapping_file.document.name
    files = exported(mapping_file)
    if out is not None:
        _write(files, out)
    shown = "\n".join(f";; ---- {name}\n{text}" for name, text in files.items())
    session.result({"files": files}, shown if out is None else "\n".join(str(out / name) for name in files))


def _write(files: dict[str, str], out: Path) -> None:
    for name in files:
        if (out / name).exists():
            raise RefusedError(
                f"{out / name} is there already", hint="name another directory, or move the file away first"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, "utf-8")
    except OSError as error:
        raise RefusedError(
            f"cannot write into {out}: {(error.strerror or str(error)).lower()}", hint="name another directory"
        ) from None
