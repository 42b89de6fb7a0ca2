"""What watches over data, predictions, models and servers once they are at work."""
