SELECT customer, announced_at AS event_timestamp, max(pieces) AS pieces FROM orders GROUP BY ALL
