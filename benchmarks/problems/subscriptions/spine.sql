-- One decision per customer and month, from the month after the customer joined.
SELECT customer || ' ' || strftime(month, '%Y-%m') AS id, month AS decision_time, customer, plan
FROM customers,
     (SELECT unnest(generate_series(TIMESTAMP '2024-02-01', TIMESTAMP '2024-12-01', INTERVAL 1 MONTH)) AS month)
WHERE joined_at < month
