"""The replay lab: traces of arrivals, run through the gateway's scheduler without any engine."""
