"""The endpoint beside other servers, and under overload."""
