"""A scheduler for KAT, written by nobody from KAT: it puts each instance where most room would be left."""
