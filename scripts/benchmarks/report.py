"""What a benchmark's JSON holds, as a table.

``{"machine", "device", "torch", "kernels", "date", "commit": words; "rounds": n; "quick", "bare",
"finished": bool; "rows": [...]}``, a row being ``{"group", "name", "size", "shapes", "bytes_moved",
"forms": {form: {"milliseconds", "first_milliseconds", "memory_mib" or null}}}``. A contest that
failed is ``{"group", "name", "error": words}``; where its times are there and something else
failed, a form has ``memory_error``, and ``published_bare`` has ``error`` in the place of its times.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.errors import DataError

Row = dict[str, Any]
BOTH = ("published_bare", "published")
TITLES = (
    "what",
    "size",
    "published, as it comes",
    "published, in our process",
    "ours",
    "times faster",
    "times faster, both in our process",
    "memory, published",
    "memory, ours",
    "share of the copy floor",
    "shapes per second",
    "first call",
)


def ratio(row: Row, form: str = "published") -> float | None:
    """How many times faster ours is than ``form``; None where that was not timed."""
    forms = row["forms"]
    if form not in forms or "error" in forms[form]:
        return None
    return forms[form]["milliseconds"] / forms["ours"]["milliseconds"]


def floor_share(row: Row) -> float | None:
    """The time of copying the bytes that must move, as a share of ours; None without a copy."""
    forms = row["forms"]
    if "copy" not in forms:
        return None
    return forms["copy"]["milliseconds"] / forms["ours"]["milliseconds"]


def table(content: dict[str, Any]) -> str:
    """Markdown: a line of conditions, then a line for every contest."""
    lines = [TITLES, ("---",) * len(TITLES), *map(_cells, content["rows"])]
    return f"{conditions(content)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def failures(content: dict[str, Any]) -> list[str]:
    """The contests that failed, and in brackets what of one where not all of it did."""
    failed = []
    for row in content["rows"]:
        parts = [
            f"{what} of {form}"
            for form, figures in row.get("forms", {}).items()
            for what, key in (("memory", "memory_error"), ("times", "error"))
            if key in figures
        ]
        if parts or "error" in row:
            failed.append(row["name"] + (f" ({', '.join(parts)})" if parts else ""))
    return failed


def conditions(content: dict[str, Any]) -> str:
    """Where and how the rows were measured, one sentence each."""
    parts = [
        f"{content['device']} ({content['machine']}), PyTorch {content['torch']}, "
        f"kernels: {content['kernels']}, {content['date']}, commit {content['commit']}.",
        f"Medians of {content['rounds']} rounds in turns.",
    ]
    if content["bare"]:
        parts.append("Without this project's process settings (`--bare`).")
    if content["quick"]:
        parts.append("Small sizes (`--quick`): ratios grow with the size.")
    if not content.get("finished", True):
        parts.append("Not finished: rows are missing.")
    copies = [row for row in content["rows"] if "copy" in row.get("forms", {})]
    if copies:
        rates = [row["bytes_moved"] / row["forms"]["copy"]["milliseconds"] / 1e6 for row in copies]
        parts.append(f"Copy bandwidth {max(rates):.0f} GB/s, read and written.")
    return " ".join(parts)


def _cells(row: Row) -> tuple[str, ...]:
    if "error" in row:
        words = f"failed: {row['error']}".replace("|", "\\|")
        return (row["name"], words, *["-"] * (len(TITLES) - 2))
    ours, published = row["forms"]["ours"], row["forms"].get("published")
    faster = [ratio(row, form) for form in BOTH]
    share = floor_share(row)
    return (
        row["name"],
        row["size"],
        *(_time(row["forms"].get(form)) for form in BOTH),
        _time(ours),
        *("-" if many is None else f"{many:.1f}" for many in faster),
        _memory(published),
        _memory(ours),
        "-" if share is None else f"{100 * share:.0f} %",
        f"{1e3 * row['shapes'] / ours['milliseconds']:,.0f}",
        _time(ours, "first_milliseconds"),
    )


def _time(form: dict[str, Any] | None, key: str = "milliseconds") -> str:
    if form is None:
        return "-"
    if "error" in form:
        return "failed"
    milliseconds = form[key]
    if milliseconds >= 1e4:
        return f"{milliseconds / 1e3:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def _memory(form: dict[str, Any] | None) -> str:
    if form is None:
        return "-"
    if "memory_error" in form:
        return "failed"
    found = form["memory_mib"]
    return "-" if found is None else f"{found:,.0f} MiB"


def read(path: str | Path) -> dict[str, Any]:
    """The content of a benchmark's JSON.

    Raises:
        DataError: no such file, or not one of ``scripts/bench.py``.
    """
    try:
        content = json.loads(Path(path).read_text())
        table(content)
    except OSError as error:
        raise DataError(
            f"no benchmark {path}: make it with python -m scripts.bench --json {path}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"{path} is no result of python -m scripts.bench ({error}): measure again"
        ) from error
    return content
