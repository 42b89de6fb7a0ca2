SELECT customer || ' ' || strftime(month, '%Y-%m') AS id,
       coalesce(cancelled_at BETWEEN month AND month + INTERVAL 30 DAY, false)::INTEGER AS label,
       month + INTERVAL 30 DAY AS known_at
FROM customers,
     (SELECT unnest(generate_series(TIMESTAMP '2024-02-01', TIMESTAMP '2024-12-01', INTERVAL 1 MONTH)) AS month)
