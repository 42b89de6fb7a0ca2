SELECT customer, ordered_at, amount FROM orders WHERE amount IS NOT NULL
