SELECT customer, ordered_at AS event_timestamp, max(amount) AS last_amount, bool_or(paid) AS last_paid
FROM orders
GROUP BY customer, ordered_at
