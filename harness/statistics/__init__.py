"""Pure statistics: quantiles, intervals, the bootstrap and autocorrelation."""
