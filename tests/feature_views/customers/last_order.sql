SELECT customer, ordered_at AS event_timestamp, max(amount) AS last_amount
FROM bought
GROUP BY ALL
