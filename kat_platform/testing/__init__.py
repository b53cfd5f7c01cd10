"""For authors of plugins and for KAT's own tests: fakes, strategies and one conformance kit per contract."""
