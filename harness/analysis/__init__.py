"""From records to summary: latencies, steady state, warnings and the answer."""
