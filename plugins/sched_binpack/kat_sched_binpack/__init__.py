"""The default scheduler of KAT: bin-packing by best fit, with every rule and its reason in one place."""
