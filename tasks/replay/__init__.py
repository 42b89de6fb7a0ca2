"""The replay: history played forward through the real parts, in simulated time."""
