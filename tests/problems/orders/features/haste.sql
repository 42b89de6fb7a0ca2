SELECT customer, ordered_at AS event_timestamp, bool_or(express) AS express_last FROM orders GROUP BY customer, ordered_at
