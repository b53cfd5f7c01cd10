"""KAT's small host core: the vocabulary, the contracts, and what joins the drivers together."""

__version__ = "1.0.0"
