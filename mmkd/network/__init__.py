"""Networks: the peers of a configuration in several processes, on one machine or on many."""
