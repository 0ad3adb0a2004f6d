"""Write generated blocks into the pages of the documentation."""

from __future__ import annotations


def replace_block(page: str, begin: str, end: str, made: str) -> str:
    """Replace what stands between two marks, a line each.

    Args:
        page: the page's text.
        begin: the mark before the block.
        end: the mark after it.
        made: the new block, with its last line end.

    Returns:
        The new page.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, found_begin, rest = page.partition(begin)
    _, found_end, behind = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the page has lost its marks, {begin} and {end}")
    return f"{before}{begin}\n{made}{end}{behind}"
