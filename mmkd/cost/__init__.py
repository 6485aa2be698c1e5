"""What students cost: operations, time, memory."""
