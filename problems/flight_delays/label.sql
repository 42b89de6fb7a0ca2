SELECT id, late AS label, known_at FROM outcomes
