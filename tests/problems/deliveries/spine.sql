SELECT delivery AS id, ordered_at AS decision_time, courier, depot, promised, distance FROM deliveries
