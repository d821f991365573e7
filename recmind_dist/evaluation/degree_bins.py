"""Bins of training degree, by which metrics and gates are reported."""

COLD_MAX = 3  # training edges; "cold" is all items up to here
ALWAYS = ("0", "1-3", "cold")


def degree_bins(max_degree: int) -> list[tuple[str, int, int]]:
    """(name, lowest, highest degree): 0, 1-3, 4-7, 8-15, … up to the bin of `max_degree`."""
    bins = [("0", 0, 0), ("1-3", 1, 3)]
    low = 4
    while low <= max_degree:
        bins.append((f"{low}-{2 * low - 1}", low, 2 * low - 1))
        low *= 2
    return bins


def strata_bins(max_degree: int) -> list[tuple[str, int, int]]:
    """The same with "cold", which overlaps two of them."""
    bins = degree_bins(max_degree)
    return [*bins[:2], ("cold", 0, COLD_MAX), *bins[2:]]
