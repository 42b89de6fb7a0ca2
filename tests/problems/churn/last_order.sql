SELECT customer, ordered_at AS event_timestamp, max(amount) AS last_amount
FROM orders
GROUP BY customer, ordered_at
