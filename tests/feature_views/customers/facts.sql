SELECT customer, region, joined FROM customers
