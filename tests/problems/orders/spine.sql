SELECT number AS id, ordered_at AS decision_time, customer, channel FROM orders
