SELECT number AS id, late AS label, ordered_at + INTERVAL 12 HOUR AS known_at FROM orders
