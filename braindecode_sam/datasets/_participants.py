"""Tables with a row for each subject."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd


def read_participants(
    participants: pd.DataFrame | str | os.PathLike[str],
) -> pd.DataFrame:
    """Return a table whose index names the subjects as text.

    A path names a file of comma-separated or, for ``.tsv``, tab-separated values. The
    first column names the subject.
    """
    if not isinstance(participants, pd.DataFrame):
        separator = "\t" if str(participants).lower().endswith(".tsv") else ","
        first = pd.read_csv(participants, sep=separator, nrows=0).columns[0]
        participants = pd.read_csv(participants, sep=separator, dtype={first: str})
    names = participants.columns[0]
    reserved = {"subject", "path"} & set(participants.columns[1:])
    if reserved:
        raise ValueError(
            f"participants must not have a column named {reserved.pop()!r}, which is"
            " reserved for recordings; rename the column"
        )
    table = participants.dropna(subset=[names])
    table = table.astype({names: str}).set_index(names)
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise ValueError(
            f"participants must have one row for each subject, named in its first"
            f" column {names!r}, got several for {repeated[0]!r}"
        )
    return table


def row_of(table: pd.DataFrame, subject: Any) -> dict[str, Any]:
    """Return the row of a subject. Either name may lack BIDS's ``sub-``."""
    text = str(subject)
    for name in (text, f"sub-{text}", text.removeprefix("sub-")):
        if name in table.index:
            return table.loc[name].to_dict()
    raise ValueError(
        f"participants has no row for {subject!r}; it has"
        f" {', '.join(table.index[:5])}{', ...' if len(table) > 5 else ''}"
    )
