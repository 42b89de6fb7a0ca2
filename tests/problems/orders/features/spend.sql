SELECT customer, ordered_at AS event_timestamp,
       sum(sum(amount)) OVER week AS spend_7d, sum(count(*)) OVER week AS orders_7d
FROM orders
GROUP BY customer, ordered_at
WINDOW week AS (PARTITION BY customer ORDER BY ordered_at RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW)
