"""Whole cohorts: a BIDS-App on Dask that gets every scan done or accounted for, and the page over all of them."""
