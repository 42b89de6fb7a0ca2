"""Each step from deliveries to batch predictions: time, memory, growth and loss."""
